"""The blacklist term: phrases no character says, with their weights.

A phrase is excused where the character or the user brought it up: a robot may call itself one. Lists are JSON lines;
one entry a line: id, lang, kind (literal or regex), pattern, category, weight in (0, 1], scope (speech, action, any),
unless_in_card, licence, source, reason, and for a regex optionally ``anchor``: folded literals one of which is in every
match, so that the regex need not be tried elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reward.aho import Automaton
from reward.blacklist_entries import Entry, read_list
from reward.folding import fold
from reward.spans import Span, reply_spans
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

LISTS = Path(__file__).parent / "lists"
_MACHINE = re.compile(
    r"\b(?:ai|a\.i\.|artificial intelligence|android|robot|chat ?bot|cyborg|language model|virtual assistant)\b"
    r"|人工智能|机器人|智能助手|仿生人|语言模型|(?<![a-z])ai(?![a-z])"
)
_NEGATED = re.compile(r"(?:\bnot?\b|\bnever\b|n't\b|without|不|别|勿|禁止|并非|而非)[^.。!！\n]{0,40}$")
_CARDS_REMEMBERED = 256


@dataclass(frozen=True)
class Hit:
    """An entry found at ``start:end`` of the reply."""

    entry: Entry
    start: int
    end: int


class BlacklistTerm:
    """``-min(1, sum of the weights of the phrases found / 2)``; 0 for a clean or empty reply, never an abstention.

    Every occurrence counts; of occurrences that overlap the heaviest does, then the longest. Plans are not looked at.
    """

    name = "blacklist"

    def __init__(
        self,
        lists: Sequence[str | Path] | None = None,
        languages: Sequence[Literal["en", "zh"]] = ("en", "zh"),
    ):
        """Load and compile.

        Args:
            lists: JSON-lines files; None takes the shipped lists. Entries of other languages are left out.
            languages: which entries to use, whatever language the reply is in.

        Raises:
            UserError: a file or a line that cannot be used, or a language that has no list.
        """
        unknown = [language for language in languages if language not in ("en", "zh")]
        if unknown:
            raise UserError(f"unknown language {unknown[0]!r}; known are en and zh", place="languages")
        files = [Path(f) for f in lists] if lists is not None else [LISTS / f"blacklist_{la}.jsonl" for la in languages]
        self.entries = [entry for file in files for entry in read_list(file) if entry.lang in languages]
        self._literals, self._owners = _literals(self.entries)
        self._automaton = Automaton(self._literals)
        self._everywhere = [e for e in self.entries if e.regex is not None and not e.anchor]
        self._cards: dict[int, tuple[CharacterCard, str, bool]] = {}

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; parts are ``hits`` (occurrences) and ``weight`` (their sum)."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        hits = self.hits(sample)
        weight = sum(hit.entry.weight for hit in hits)
        seen = dict.fromkeys(
            f'blacklist: "{" ".join(sample.reply[h.start : h.end].split())}" ({h.entry.category})' for h in hits
        )
        value = -min(1.0, weight / 2) if hits else 0.0
        spans = tuple((hit.start, hit.end) for hit in hits)
        return TermScore(value, tuple(seen), {"hits": float(len(hits)), "weight": weight}, spans)

    def hits(self, sample: Sample) -> list[Hit]:
        """The phrases that count against this reply, in order, without overlaps."""
        folded = fold(sample.reply)
        raw = list(self._raw(folded.text))
        if not raw:
            return []
        spans = reply_spans(sample)
        kept = []
        for entry, start, end in raw:
            hit = Hit(entry, *folded.origin(start, end))
            if _in_scope(hit, spans) and not self._excused(sample, entry, folded.text[start:end]):
                kept.append(hit)
        return _without_overlaps(kept)

    def _raw(self, text: str) -> Iterable[tuple[Entry, int, int]]:
        tried: set[str] = set()
        for start, end, number in self._automaton.find(text):
            literal_start, literal_end = _bounded(self._literals[number])
            if (literal_start and start and text[start - 1].isalnum() and text[start - 1].isascii()) or (
                literal_end and end < len(text) and text[end].isalnum() and text[end].isascii()
            ):
                literal_fits = False
            else:
                literal_fits = True
            for entry in self._owners[number]:
                if entry.regex is None:
                    if literal_fits:
                        yield entry, start, end
                elif entry.id not in tried:
                    tried.add(entry.id)
                    yield from ((entry, *m.span()) for m in entry.regex.finditer(text) if m.group())
        for entry in self._everywhere:
            if entry.regex is not None:
                yield from ((entry, *m.span()) for m in entry.regex.finditer(text) if m.group())

    def _excused(self, sample: Sample, entry: Entry, phrase: str) -> bool:
        if not entry.unless_in_card:
            return False
        _, card_text, machine = self._card(sample.card)
        if machine and entry.category == "ai_identity":
            return True
        return phrase in card_text or any(phrase in fold(m.content).text for m in sample.messages if m.role == "user")

    def _card(self, card: CharacterCard) -> tuple[CharacterCard, str, bool]:
        """The card's folded text and whether it describes a machine; remembered, groups share their card."""
        known = self._cards.get(id(card))
        if known is None or known[0] is not card:
            if len(self._cards) >= _CARDS_REMEMBERED:
                self._cards.clear()
            text = fold(card_text(card)).text
            machine = any(not _NEGATED.search(text[: m.start()]) for m in _MACHINE.finditer(text))
            known = self._cards[id(card)] = (card, text, machine)
        return known


def card_text(card: CharacterCard) -> str:
    """Everything the card says of the character, the lorebook included, one field a line."""
    fields = [card.name, *card.aliases, card.nickname, card.description, card.personality, card.scenario]
    fields += [card.greeting, *card.alternate_greetings, card.examples]
    if card.lorebook is not None:
        fields += [entry.content for entry in card.lorebook.entries]
    return "\n".join(part for part in fields if part)


def _literals(entries: Sequence[Entry]) -> tuple[list[str], list[list[Entry]]]:
    """The distinct literals to look for and the entries each belongs to: its own pattern, or a regex's anchor."""
    owners: dict[str, list[Entry]] = {}
    for entry in entries:
        for literal in entry.anchor if entry.regex is not None else (entry.folded,):
            owners.setdefault(literal, []).append(entry)
    return list(owners), list(owners.values())


def _bounded(literal: str) -> tuple[bool, bool]:
    """Whether the literal must start and end at a word boundary: where it begins or ends in a Latin letter."""
    return literal[0].isascii() and literal[0].isalnum(), literal[-1].isascii() and literal[-1].isalnum()


def _in_scope(hit: Hit, spans: Sequence[Span]) -> bool:
    kind = next((s.kind for s in spans if s.start <= hit.start < s.end), "speech")
    if kind == "plan":
        return False
    if hit.entry.scope == "speech":
        return kind in ("speech", "thought")
    return hit.entry.scope == "any" or kind == "action"


def _without_overlaps(hits: list[Hit]) -> list[Hit]:
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda h: (-h.entry.weight, h.start - h.end, h.start, h.entry.id)):
        if all(hit.end <= other.start or other.end <= hit.start for other in kept):
            kept.append(hit)
    return sorted(kept, key=lambda h: h.start)

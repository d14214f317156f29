"""The blacklist term: phrases no character says, with their weights.

A phrase is excused where the character or the user brought it up: a robot may call itself one. Lists are JSON lines;
one entry a line: id, lang, kind (literal or regex), pattern, category, weight in (0, 1], scope (speech, action, any),
unless_in_card, licence, source, reason, and for a regex optionally ``anchor``: folded literals one of which is in every
match, so that the regex need not be tried elsewhere.

Optionally ``human_rate``: occurrences in 1,000 replies of people. Of a phrase that people use too, what a conversation
of as many replies would have by itself is free: of a phrase in every tenth reply of people, two in a conversation of
twenty replies, and a tenth of the first one in a single reply. A line ``{"category", "human_rate"}`` says the same of
all of a category's entries together. A reply's charge depends on its own conversation alone, never on what else is
judged beside it.

A regex has a tenth of a second for a reply; one that needs longer is skipped there, counted and reported, so that a
careless pattern (``(a+)+$``) cannot hang a run.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from reward.aho import Automaton
from reward.blacklist_entries import Entry, read_list
from reward.folding import fold
from reward.per_card import PerCard
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
_TIME_LIMIT = 0.1
"""Seconds a regex may take for a reply; those shipped take some microseconds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """An entry found at ``start:end`` of the reply."""

    entry: Entry
    start: int
    end: int


class BlacklistTerm:
    """``-min(1, sum of the weights of the phrases found / 2)``; 0 for a clean or empty reply, never an abstention.

    Every occurrence counts; of occurrences that overlap the heaviest does, then the longest. Plans are not looked at.
    Of phrases with a ``human_rate`` only what is above it counts (see the head of this module).

    ``timeouts`` counts by entry the replies for which its regex took too long.
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
        self._card = PerCard(_folded_card)
        self.timeouts: Counter[str] = Counter()

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; parts are ``hits`` (occurrences), ``weight`` (what they are charged, summed) and,
        where a regex took too long, ``timeouts``."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        late = self.timeouts.total()
        found = self.hits(sample)
        charged = [(hit, part) for hit, part in zip(found, self._charged(sample, found), strict=True) if part > 0]
        weight = sum(hit.entry.weight * part for hit, part in charged)
        hits = [hit for hit, _ in charged]
        seen = dict.fromkeys(
            f'blacklist: "{" ".join(sample.reply[h.start : h.end].split())}" ({h.entry.category})' for h in hits
        )
        value = -min(1.0, weight / 2) if hits else 0.0
        spans = tuple((hit.start, hit.end) for hit in hits)
        parts = {"hits": float(len(found)), "weight": float(weight)}
        if late := self.timeouts.total() - late:
            parts["timeouts"] = float(late)
        return TermScore(value, tuple(seen), parts, spans)

    def _charged(self, sample: Sample, hits: Sequence[Hit]) -> list[float]:
        """The part of each hit, in [0, 1], that is above people's rate."""
        counts = Counter(hit.entry.baseline for hit in hits if hit.entry.human_rate is not None)
        if not counts:
            return [1.0] * len(hits)
        said = [message.content for message in sample.messages if message.role == "assistant"]
        before = Counter(
            hit.entry.baseline for text in said for hit in self.hits(replace(sample, reply=text, messages=()))
        )
        rates = {hit.entry.baseline: hit.entry.human_rate or 0.0 for hit in hits}
        parts = {"": 1.0}
        for baseline, count in counts.items():
            free = rates[baseline] / 1000 * (len(said) + 1)
            above = max(0.0, before[baseline] + count - free) - max(0.0, before[baseline] - free)
            parts[baseline] = above / count
        return [parts[hit.entry.baseline] for hit in hits]

    def hits(self, sample: Sample) -> list[Hit]:
        """The phrases that count against this reply, in order, without overlaps."""
        folded = fold(sample.reply)
        raw = list(self._raw(folded.text))
        if not raw:
            return []
        spans = reply_spans(sample)
        starts = [span.start for span in spans]
        kept = []
        for entry, start, end in raw:
            hit = Hit(entry, *folded.origin(start, end))
            if _in_scope(hit, spans, starts) and not self._excused(sample, entry, folded.text[start:end]):
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
                    yield from self._matches(entry, text)
        for entry in self._everywhere:
            yield from self._matches(entry, text)

    def _matches(self, entry: Entry, text: str) -> list[tuple[Entry, int, int]]:
        """Where a regex matches; nowhere if it takes longer than it may."""
        try:
            return [(entry, *m.span()) for m in entry.regex.finditer(text, timeout=_TIME_LIMIT) if m.group()]
        except TimeoutError:
            self._late(entry, text)
            return []

    def _late(self, entry: Entry, text: str) -> None:
        """Count, and warn of the first, the second, the fourth reply and so on: a pattern may be late for all."""
        self.timeouts[entry.id] += 1
        count = self.timeouts[entry.id]
        if count.bit_count() == 1:
            _log.warning(
                "%s: regex %r took longer than %g s for a reply of %d characters and was skipped there (%d so far); "
                "write it without nested repetition",
                *(entry.place or "blacklist", entry.id, _TIME_LIMIT, len(text), count),
            )

    def _excused(self, sample: Sample, entry: Entry, phrase: str) -> bool:
        if not entry.unless_in_card:
            return False
        card, machine = self._card(sample.card)
        if machine and entry.category == "ai_identity":
            return True
        return phrase in card or any(phrase in fold(m.content).text for m in sample.messages if m.role == "user")


def _folded_card(card: CharacterCard) -> tuple[str, bool]:
    """The card's folded text and whether it describes a machine."""
    text = fold(card_text(card)).text
    return text, any(not _NEGATED.search(text[: m.start()]) for m in _MACHINE.finditer(text))


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


def _in_scope(hit: Hit, spans: Sequence[Span], starts: Sequence[int]) -> bool:
    """Whether the entry is looked for where the hit stands; ``starts`` are the spans', in order."""
    at = bisect_right(starts, hit.start) - 1
    kind = spans[at].kind if at >= 0 and hit.start < spans[at].end else "speech"
    if kind == "plan":
        return False
    if hit.entry.scope == "speech":
        return kind in ("speech", "thought")
    return hit.entry.scope == "any" or kind == "action"


def _without_overlaps(hits: list[Hit]) -> list[Hit]:
    """The heaviest, then the longest of hits that overlap."""
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda h: (-h.entry.weight, h.start - h.end, h.start, h.entry.id)):
        at = bisect_right(kept, hit.start, key=lambda h: h.start)
        if (at == 0 or kept[at - 1].end <= hit.start) and (at == len(kept) or hit.end <= kept[at].start):
            kept.insert(at, hit)
    return kept

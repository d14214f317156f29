"""Put the character's name where it says "I", with the verb forms that the third person needs, and the alignment.

"Zhang Fei am" is wrong whatever the sentence says; only after the morphology is repaired does the result tell whether
the sentence could be about a person instead of by one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from reward.dissonance.lexicon import Mention, self_mentions
from reward.dissonance.verbs import third_person
from reward.text import Language, sentences
from rlrp.cards import CharacterCard

Later = Literal["name", "pronoun"]
Offsets = tuple[int, int]


@dataclass(frozen=True)
class Substitution:
    """The substituted ``text`` and, per change, the span in the original and the span in ``text``.

    Verbs that were inflected are changes like the names; everything outside the spans is the same in both texts.
    """

    text: str
    spans: tuple[tuple[Offsets, Offsets], ...]


_PRONOUNS = {
    "male": ("he", "him", "his", "himself"),
    "female": ("she", "her", "her", "herself"),
}
_HAN_PRONOUN = {"male": "他", "female": "她"}
_AUXILIARY = {"am": "is", "'m": "is", "have": "has", "'ve": "has", "do": "does", "was": "was", "were": "were"}
_NOT = {"haven't": "hasn't", "don't": "doesn't", "ain't": "isn't", "'m not": "is not"}
# After I: the clitic or verb that agrees with it, adverbs in between allowed.
_AFTER_I = re.compile(
    r"(?P<clitic>['’](?:m|ve|ll|d)\b)|(?P<gap>(?:\s+(?:never|always|also|just|still|only|really|often|now|then|once|even|"
    r"hardly|barely|merely|already|sometimes|rather|almost|do not|\w+ly))*\s+)(?P<verb>[a-z]+(?:['’]t)?)",
    re.IGNORECASE,
)
_BEFORE_I = re.compile(
    r"\b(am|do|don['’]t|have|haven['’]t|was|did|can|could|will|would|shall|should|must|may|might)(\s+)$", re.IGNORECASE
)


def substitute(text: str, card: CharacterCard, language: Language, *, later: Later = "name") -> Substitution:
    """Replace every self-mention of ``card`` in ``text`` by its display name.

    Args:
        text: speech; apply it to speech only, a quotation's "I" is another's.
        card: whose forms and gender to use.
        language: of ``text``.
        later: what second and later mentions in a sentence become: the name again, or he, she (他, 她). Repeating a
            name looks odd for reasons of style alone, so a caller with a language model takes the likelier variant.
            Without a known gender the name stays.
    """
    mentions = self_mentions(text, language, card)
    firsts = _first_in_sentence(text, mentions)
    edits: list[tuple[int, int, str]] = []
    for mention in mentions:
        gender = card.gender if later == "pronoun" and mention not in firsts else None
        edits += _english(text, mention, card, gender) if language == "en" else _chinese(mention, card, gender)
    return _apply(text, edits)


def _first_in_sentence(text: str, mentions: list[Mention]) -> set[Mention]:
    firsts = set()
    for start, end in sentences(text):
        inside = [m for m in mentions if start <= m.start < end]
        firsts |= set(inside[:1])
    return firsts


def _chinese(mention: Mention, card: CharacterCard, gender: str | None) -> list[tuple[int, int, str]]:
    name = _HAN_PRONOUN.get(gender or "", card.display_name)
    tail = "自己" if mention.form == "我自己" else ""
    return [(mention.start, mention.end, name + tail)]


def _english(text: str, mention: Mention, card: CharacterCard, gender: str | None) -> list[tuple[int, int, str]]:
    name, pronouns = card.display_name, _PRONOUNS.get(gender or "")
    subject, object_, possessive, _ = pronouns or (name, name, f"{name}'s", name)
    form = mention.form.lower()
    if form == "me":
        return [(mention.start, mention.end, object_)]
    if form in ("my", "mine"):
        return [(mention.start, mention.end, "hers" if possessive == "her" and form == "mine" else possessive)]
    if form == "myself":
        own = _PRONOUNS.get(card.gender or "")
        return [(mention.start, mention.end, own[3] if own else name)]
    if form != "i":
        return [(mention.start, mention.end, subject)]
    return [(mention.start, mention.end, subject), *_agreement(text, mention)]


def _agreement(text: str, mention: Mention) -> list[tuple[int, int, str]]:
    """The edit that makes the verb of this "I" third person; none after a modal, a past form, or "and"."""
    before = _BEFORE_I.search(text[: mention.start])
    if before is not None:
        # In a question or inversion the auxiliary agrees and the main verb is bare.
        word = before.group(1).lower().replace("’", "'")
        new = _AUXILIARY.get(word) or _NOT.get(word)
        return [(before.start(1), before.end(1), _cased(before.group(1), new))] if new and new != word else []
    if re.search(r"\w\s+(?:and|or|nor)\s+$", text[: mention.start]) and not _new_clause(text[: mention.start]):
        return []  # "you and I": the subject stays plural
    after = _AFTER_I.match(text, mention.end)
    if after is None:
        return []
    if after.group("clitic"):
        full = {"m": " is", "ve": " has", "ll": " will", "d": " would"}[after.group("clitic")[1:].lower()]
        return [(after.start(), after.end(), full)]
    negated = re.search(r"\bdo(?= not\b)", after.group("gap"), re.IGNORECASE)
    if negated is not None:
        at = after.start("gap") + negated.start()
        return [(at, at + 2, "does")]
    word = after.group("verb").lower().replace("’", "'")
    new = _AUXILIARY.get(word) or _NOT.get(word) or third_person(word)
    return [(after.start("verb"), after.end("verb"), new)] if new != word else []


def _new_clause(before: str) -> bool:
    """Whether "... and" ends a clause, so that the "I" after it is a subject of its own ("he left and I stay")."""
    words = re.findall(r"[\w'’]+|[,;.]", before)[:-1]
    return (
        len(words) >= 2
        and words[-1].lower() not in ("you", "he", "she", "they", "we", "it")
        and not words[-1][0].isupper()
    )


def _cased(old: str, new: str) -> str:
    return new.capitalize() if old[:1].isupper() else new


def _apply(text: str, edits: list[tuple[int, int, str]]) -> Substitution:
    parts: list[str] = []
    spans: list[tuple[Offsets, Offsets]] = []
    done = length = 0
    for start, end, new in sorted(edits):
        if start < done:
            continue
        parts += [text[done:start], new]
        length += start - done
        spans.append(((start, end), (length, length + len(new))))
        length += len(new)
        done = end
    parts.append(text[done:])
    return Substitution("".join(parts), tuple(spans))

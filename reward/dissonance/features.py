"""The features of a reply's speech that the lite score weighs. No language model, no state."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from reward.dissonance.anchors import anchors, density
from reward.dissonance.lexicon import is_illeist, self_mentions
from reward.dissonance.ngrams import ngram_register
from reward.dissonance.register import GROUPS, register
from reward.spans import join, reply_spans
from reward.text import Language, clauses, language_of, lower_case, sentences, units
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample

NAMES = ("K", *GROUPS, "S_rule", "ngrams", "log_length")
"""The order of :attr:`Features.values`; the five groups are matches a clause, the opener's is 0 or 1; ``ngrams`` is
the register ratio."""


@dataclass(frozen=True)
class Features:
    """``values`` in the order of :data:`NAMES`; ``length`` in units; ``mentions`` counts the weights of self-mentions;
    ``offending`` are the clauses that an encyclopaedia or an assistant could have written."""

    values: tuple[float, ...]
    language: Language
    length: int
    mentions: float
    offending: tuple[str, ...]
    speech: str = ""


def features(sample: Sample) -> Features | None:
    """The features of a reply, or None when it says nothing."""
    speech = join(sample.reply, reply_spans(sample), "speech")
    return speech_features(speech, sample.card)


def speech_features(speech: str, card: CharacterCard) -> Features | None:
    """The features of a stretch of speech of this character, or None for one without a word."""
    length, parts = units(speech), clauses(speech)
    if length == 0 or not parts:  # "×" is a unit and no clause
        return None
    language = language_of(speech, card.language)
    lowered, groups = lower_case(speech), register(language).groups
    matches = {name: [m.span() for m in groups[name].finditer(lowered)] for name in GROUPS}
    densities = [min(1.0, len(matches[name]) / len(parts)) for name in GROUPS[:-1]]
    opener = 1.0 if matches["opener"] else 0.0
    held = anchors(speech, language)
    tolerance, mentions = third_person_tolerance(speech, language, card, held)
    k = density(speech, parts, [start for start, _, _ in held])
    ngrams = ngram_register(language).score(speech, card)
    values = (k, *densities, opener, tolerance, ngrams, math.log1p(length))
    hits = [span for name in ("biography", "slogan", "opener", "dates", "enumeration") for span in matches[name]]
    return Features(values, language, length, mentions, _offending(speech, parts, hits), speech)


def third_person_tolerance(
    speech: str, language: Language, card: CharacterCard, anchored: Sequence[tuple[int, int, str]] | None = None
) -> tuple[float, float]:
    """How readily the speech takes the name for "I", and the weight of its self-mentions.

    The first number is the share (by weight) of self-mentions in sentences without a single speaker anchor: there the
    substituted sentence is a sentence about somebody. 0 without self-mentions, and 0 for an illeist, whose style it is.
    """
    mentions = self_mentions(speech, language, card)
    total = sum(m.weight for m in mentions)
    if not mentions or is_illeist(card):
        return 0.0, total
    anchored = anchors(speech, language) if anchored is None else anchored
    held = [start for start, _, kind in anchored if kind not in ("colloquial", "here_and_now")]
    starts, loose = [m.start for m in mentions], 0.0
    for start, end in sentences(speech):
        if bisect_left(held, start) == bisect_left(held, end):  # no anchor between the two
            inside = mentions[bisect_left(starts, start) : bisect_left(starts, end)]
            loose += sum(m.weight for m in inside)
    return loose / total, total


def _offending(speech: str, parts: list[tuple[int, int]], hits: list[tuple[int, int]]) -> tuple[str, ...]:
    """The clauses with the most matches, at most three, in the order in which they are said."""
    starts, ends = sorted(start for start, _ in hits), sorted(end for _, end in hits)
    counts = {(a, b): bisect_left(starts, b) - bisect_right(ends, a) for a, b in parts}
    worst = sorted((span for span, count in counts.items() if count), key=lambda span: -counts[span])[:3]
    return tuple(speech[a:b].strip() for a, b in sorted(worst))

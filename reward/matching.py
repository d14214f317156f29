"""Features of how well a reply belongs to its card and to what was just said: the reply in its place.

Three questions: does it speak of the card's and the conversation's things (rare words shared, cosine of embeddings),
and is it said in the manner in which the card's own greeting is (the product of their styles).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from reward.embedding import Encoder
from reward.features import card_summary, expanded, visible_text
from reward.text import Language, unit_list
from rlrp.cards import CharacterCard
from rlrp.dialogue.types import Sample

Floats = NDArray[np.float32]

_SMOOTHING = 8.0
"""Added to the rarity of a reply's words: a one-word reply that shares its word does not match in full."""
_CONTEXT = 6
"""Messages before the last that count as the conversation."""
_MAX_CHARACTERS = 8000

OVERLAPS = ("shares_card", "shares_user", "shares_conversation")
EXCESSES = ("excess_card", "excess_user", "excess_conversation")
"""Squares of the overlaps: sharing something is a sign of belonging, sharing nearly everything one of parroting."""
COSINES = ("near_card", "near_description", "near_manner", "near_user")


@dataclass(frozen=True)
class Rarity:
    """In how many of ``documents`` (characters) each term occurs; terms of one document only are left out.

    A term is anything that two texts can share: a word, a character n-gram.
    """

    documents: int
    counts: Mapping[str, int]

    @classmethod
    def fit(cls, characters: Iterable[frozenset[str]]) -> Rarity:
        """Count, given the terms of everything there is of each character."""
        counts: Counter[str] = Counter()
        documents = 0
        for found in characters:
            documents += 1
            counts.update(found)
        return cls(documents, {term: count for term, count in sorted(counts.items()) if count > 1})

    def share(self, own: frozenset[str], other: frozenset[str]) -> float:
        """The part of ``own``, by rarity, that ``other`` has too, in [0, 1)."""
        mass = {term: self._rarity(term) for term in own}
        # fsum: a set's order, and with it a plain sum's last bits, is another in every process.
        return math.fsum(mass[term] for term in own & other) / (math.fsum(mass.values()) + _SMOOTHING)

    def _rarity(self, term: str) -> float:
        return math.log((self.documents + 1) / (self.counts.get(term, 0) + 1))


def terms(text: str, language: Language) -> frozenset[str]:
    """The words of a text, or its pairs of neighbouring characters in Chinese."""
    return _terms(text[:_MAX_CHARACTERS], language)


@lru_cache(maxsize=2048)
def _terms(text: str, language: Language) -> frozenset[str]:
    units = unit_list(text)
    if language == "zh":
        return frozenset(first + second for first, second in itertools.pairwise(units))
    return frozenset(units)


def match_names(style_names: Sequence[str], *, semantic: bool) -> tuple[str, ...]:
    """The names of the columns of :func:`match_features`."""
    return (*OVERLAPS, *EXCESSES, *(COSINES if semantic else ()), *(f"manner:{name}" for name in style_names))


def match_features(
    samples: Sequence[Sample], encoder: Encoder, rarity: Rarity, style: Floats, manner: Floats, language: Language
) -> Floats:
    """One row a sample, the columns as in :func:`match_names`.

    Args:
        style: (N, S), the replies' style in standard deviations.
        manner: (N, S), likewise of each card's own words (:func:`manner_of`).
    """
    blocks = [overlap_rows(samples, rarity, partial(terms, language=language))]
    if encoder.semantic:
        blocks.append(_cosines(samples, encoder))
    blocks.append(style * manner)
    return np.concatenate(blocks, axis=1)


def manner_of(card: CharacterCard) -> str:
    """The character's own words in its card: the greeting, else the examples, else the description."""
    return expanded(card, card.greeting or card.examples or card.description)


def overlap_rows(samples: Sequence[Sample], rarity: Rarity, terms_of: Callable[[str], frozenset[str]]) -> Floats:
    """(N, 6): what a reply shares with its card, the user's last message and the conversation before, and squares."""
    shares = np.array([_overlaps(sample, rarity, terms_of) for sample in samples], np.float32)
    shares = shares.reshape(len(samples), len(OVERLAPS))
    return np.concatenate([shares, shares**2], axis=1)


def _overlaps(sample: Sample, rarity: Rarity, terms_of: Callable[[str], frozenset[str]]) -> list[float]:
    own = terms_of(visible_text(sample.reply))
    before = "\n".join(message.content for message in sample.messages[:-1][-_CONTEXT:])
    return [rarity.share(own, terms_of(other)) for other in (card_summary(sample.card), _last(sample), before)]


def _cosines(samples: Sequence[Sample], encoder: Encoder) -> Floats:
    reply = encoder.encode([visible_text(sample.reply) for sample in samples])
    others = (
        [card_summary(sample.card) for sample in samples],
        [expanded(sample.card, f"{sample.card.description}\n{sample.card.personality}") for sample in samples],
        [manner_of(sample.card) for sample in samples],
        [_last(sample) for sample in samples],
    )
    return np.stack([(reply * encoder.encode(texts)).sum(axis=1) for texts in others], axis=1)


def _last(sample: Sample) -> str:
    return sample.messages[-1].content if sample.messages else ""

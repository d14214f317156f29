"""What the ratings are predicted from: how a reply is written, its wording, and how a language model reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.blacklist import BlacklistTerm
from reward.dissonance.features import NAMES as DISSONANCE
from reward.dissonance.features import features
from reward.dissonance.score import DissonanceTerm
from reward.features import feature_names, style_features
from reward.guards import RepetitionTerm, SpeaksForUserTerm
from reward.spans import visible
from reward.text import Language, units
from rlrp.dialogue.types import Sample
from rlrp.protocols import RewardTerm

Floats = NDArray[np.float32]
VERSION = 2
"""Changes whenever a column changes its meaning."""
NGRAMS = (1, 3)
_TERMS = ("blacklist", "dissonance", "repetition", "speaks_for_user")
_PLACE = ("length", "length_squared", "user_length", "earlier_length", "turns", "card_length")
LENGTHS = frozenset({"length", "length_squared", "dissonance:log_length"})
"""What a reply could change by being longer or shorter alone."""


def style_names(language: Language) -> tuple[str, ...]:
    """The names of the columns of :func:`style_columns`."""
    dissonance = (*(f"dissonance:{name}" for name in DISSONANCE), "self_mentions", "no_speech")
    return (*feature_names(language), *dissonance, *(f"term:{name}" for name in _TERMS), *_PLACE)


class StyleColumns:
    """Computes the style columns; keeps the rule terms, whose lists take a moment to compile."""

    def __init__(self) -> None:
        self._terms: tuple[RewardTerm, ...] = (
            BlacklistTerm(),
            DissonanceTerm(),
            RepetitionTerm(),
            SpeaksForUserTerm(),
        )

    def rows(self, samples: Sequence[Sample], language: Language) -> Floats:
        """(N, S), the columns as in :func:`style_names`."""
        if not samples:
            return np.zeros((0, len(style_names(language))), np.float32)
        values = [[score.value or 0.0 for score in term.score(samples)] for term in self._terms]
        blocks = [style_features(samples, language), [_dissonance(s) for s in samples], np.array(values).T]
        return np.concatenate([*blocks, [_place(s) for s in samples]], axis=1).astype(np.float32)


def _dissonance(sample: Sample) -> list[float]:
    found = features(sample)
    if found is None:
        return [0.0] * (len(DISSONANCE) + 1) + [1.0]
    return [*found.values, found.mentions, 0.0]


def _place(sample: Sample) -> list[float]:
    """The reply's length beside those of what it answers: logarithms, in units or (history) characters."""
    length = np.log1p(units(visible(sample.reply)))
    earlier = [len(m.content) for m in sample.messages if m.role == "assistant"]
    last = len(sample.messages[-1].content) if sample.messages else 0
    rest = [np.log1p(last), np.log1p(np.mean(earlier or [0])), np.log1p(len(sample.messages))]
    return [length, length**2, *rest, np.log1p(len(sample.card.description))]


def wording(vocabulary: dict[str, int] | None = None, **options: Any) -> Any:
    """TF-IDF over runs of one to three characters of the visible reply, rows not normalised: length shows too."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer="char",
        ngram_range=NGRAMS,
        sublinear_tf=True,
        norm=None,
        vocabulary=vocabulary,
        dtype=np.float32,
        **options,
    )

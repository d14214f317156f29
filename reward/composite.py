"""The composite reward: a weighted sum of terms, with abstentions imputed and every part kept for the log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Literal

from rlrp.dialogue.types import Sample
from rlrp.protocols import Judgement, RewardTerm, TermScore

_SPREAD_FLOOR = 1e-6
"""A group whose values differ less than this carries no signal; dividing by the spread would amplify noise."""


class RewardTermError(Exception):
    """A term raised, or returned something that is no score; a training step that meets it must stop.

    Args:
        term: the term's name.
        problem: what it did.
    """

    def __init__(self, term: str, problem: str):
        super().__init__(f"reward term {term!r}: {problem}")
        self.term, self.problem = term, problem

    def __reduce__(self) -> tuple[type[RewardTermError], tuple[str, str]]:
        # Ray pickles errors across processes; the default would rebuild from the joined text alone.
        return type(self), (self.term, self.problem)


@dataclass(frozen=True)
class Gate:
    """A veto: where the term's own value is below ``below``, the total is at most ``cap``."""

    below: float
    cap: float


@dataclass(frozen=True)
class TermSettings:
    """How one term enters the total.

    Args:
        neutral: the value that stands in where a whole group abstains.
        normalise: ``group`` takes the deviation from the group's mean, in the group's standard deviations.
        gate: a veto on the term's own value, before normalising; abstentions pass it.
    """

    neutral: float = 0.0
    normalise: Literal["none", "group"] = "none"
    gate: Gate | None = None


class CompositeReward:
    """Judges groups of replies by several terms. A term of weight 0 is logged and changes no total."""

    def __init__(self, terms: Sequence[tuple[RewardTerm, float, TermSettings]]):
        """Combine terms, each with its weight and settings.

        Raises:
            ValueError: no terms, two of one name, or a weight that is not a finite number.
        """
        names = [term.name for term, _, _ in terms]
        if not names:
            raise ValueError("a composite reward needs at least one term")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two terms are called {twice[0]!r}")
        if wrong := [term.name for term, weight, _ in terms if not math.isfinite(weight)]:
            raise ValueError(f"the weight of {wrong[0]!r} is not a finite number")
        self.terms = tuple(terms)

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        """Judge groups of samples; the samples of a group share card and messages.

        Raises:
            RewardTermError: a term raised or did not return one finite number or None for each sample.
        """
        samples = [sample for group in groups for sample in group]
        scores = {term.name: _checked(term, samples) for term, _, _ in self.terms}
        judged, start = [], 0
        for group in groups:
            own = {name: found[start : start + len(group)] for name, found in scores.items()}
            judged.append(self._judge_group(own, len(group)))
            start += len(group)
        return judged

    def score_one_by_one(self, samples: Sequence[Sample]) -> list[Judgement]:
        """Judge samples that have no group: an abstention is imputed by the term's ``neutral`` value."""
        return [judgements[0] for judgements in self.judge([[sample] for sample in samples])]

    def _judge_group(self, scores: dict[str, list[TermScore]], size: int) -> list[Judgement]:
        totals, caps = [0.0] * size, [math.inf] * size
        for term, weight, settings in self.terms:
            values = [score.value for score in scores[term.name]]
            for at, value in enumerate(_normalised(_imputed(values, settings.neutral), settings.normalise)):
                totals[at] += weight * value
            if settings.gate is not None:
                for at, raw in enumerate(values):
                    if raw is not None and raw < settings.gate.below:
                        caps[at] = min(caps[at], settings.gate.cap)
        return [
            Judgement(
                total=min(totals[at], caps[at]),
                terms={name: found[at].value for name, found in scores.items()},
                reasons={name: found[at].reasons for name, found in scores.items() if found[at].reasons},
                parts={name: found[at].parts for name, found in scores.items() if found[at].parts},
                spans={name: found[at].spans for name, found in scores.items() if found[at].spans},
            )
            for at in range(size)
        ]


def _checked(term: RewardTerm, samples: Sequence[Sample]) -> list[TermScore]:
    """The term's scores, one a sample, or the error that names the term."""
    try:
        scores = term.score(samples)
    except Exception as error:
        raise RewardTermError(term.name, f"raised {type(error).__name__}: {error}") from error
    if not isinstance(scores, Sequence) or len(scores) != len(samples):
        got = f"{len(scores)} scores" if isinstance(scores, Sequence) else type(scores).__name__
        raise RewardTermError(term.name, f"returned {got} for {len(samples)} samples")
    for at, score in enumerate(scores):
        if not isinstance(score, TermScore):
            raise RewardTermError(term.name, f"returned a {type(score).__name__} for sample {at}, expected a TermScore")
        if score.value is not None and not _is_finite(score.value):
            raise RewardTermError(term.name, f"returned {score.value!r} for sample {at}, expected a finite number")
    return list(scores)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _imputed(values: Sequence[float | None], neutral: float) -> list[float]:
    """Abstentions replaced by the mean of the others, so that abstaining neither pays nor costs."""
    given = [value for value in values if value is not None]
    stand_in = fmean(given) if given else neutral
    return [stand_in if value is None else value for value in values]


def _normalised(values: list[float], how: Literal["none", "group"]) -> list[float]:
    if how == "none" or not values:
        return values
    mean, spread = fmean(values), pstdev(values)
    return [(value - mean) / spread if spread > _SPREAD_FLOOR else 0.0 for value in values]

"""The composite reward: a weighted sum of terms, with abstentions imputed and every part kept for the log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reward.totals import Gate, TermSettings, Totals
from rlrp.dialogue.types import Sample
from rlrp.protocols import Judgement, RewardTerm, TermScore

__all__ = ["CompositeReward", "Gate", "RewardTermError", "TermSettings"]


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
        self._totals = Totals([(term.name, weight, settings) for term, weight, settings in terms])

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        """Judge groups of samples; those of a group share the card and, unless they are replies of conversations, the
        messages.

        Where a term is normalised by ``running``, what it says here joins what was judged before.

        Raises:
            RewardTermError: a term raised or did not return one finite number or None for each sample.
        """
        return self._totals.combine(groups, self._judged(groups))

    def score_one_by_one(self, samples: Sequence[Sample]) -> list[Judgement]:
        """Judge samples that have no group: an abstention is imputed by the term's ``neutral`` value, nothing is
        normalised by ``character`` or ``running``, and ``group`` finds no deviation in a group of one."""
        groups = [[sample] for sample in samples]
        return [judgements[0] for judgements in self._totals.alone().combine(groups, self._judged(groups))]

    def plain(self) -> CompositeReward:
        """The same terms and weights without normalising: what compares policies, whose own mean must not be taken
        away from them."""
        return CompositeReward([(term, weight, replace(how, normalise="none")) for term, weight, how in self.terms])

    def state(self) -> dict[str, Any]:
        """What ``running`` has seen, as plain JSON; see :meth:`reward.totals.Totals.state`."""
        return self._totals.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`.

        Raises:
            UserError: it is none, or another reward's.
        """
        self._totals.load_state(state)

    def _judged(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        """What every term says of every sample, the totals still to be made."""
        samples = [sample for group in groups for sample in group]
        scores = {term.name: _checked(term, samples) for term, _, _ in self.terms}
        judged = iter(
            Judgement(
                total=0.0,
                terms={name: found[at].value for name, found in scores.items()},
                reasons={name: found[at].reasons for name, found in scores.items() if found[at].reasons},
                parts={name: found[at].parts for name, found in scores.items() if found[at].parts},
                spans={name: found[at].spans for name, found in scores.items() if found[at].spans},
            )
            for at in range(len(samples))
        )
        return [[next(judged) for _ in group] for group in groups]


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

"""Totals: from every term's values to one number a reply. No term and no model is needed here, only what they said.

That is why training makes its totals in the driver, from the judgements of all reward actors together: ``character``
and ``running`` need what other actors have judged, and each actor's own statistics would depend on their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any, Literal

from rlrp.cards import CharacterCard
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.protocols import Judgement

Normalise = Literal["none", "group", "character", "running"]

_SPREAD_FLOOR = 1e-6
"""Values that differ less than this carry no signal; dividing by the spread would amplify noise."""


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
        normalise: ``none`` takes the value; the others its deviation from a mean, in standard deviations: of its
            ``group``, of all samples of the same card in the call (``character``), or of everything judged before
            (``running``; of the first call itself, before which there is nothing). Abstentions count in none of them.
        gate: a veto on the term's own value, before normalising; abstentions pass it.
    """

    neutral: float = 0.0
    normalise: Normalise = "none"
    gate: Gate | None = None


@dataclass
class Running:
    """Mean and spread of all values so far (Welford; calls are merged by Chan's formula): ``m2`` is the sum of squared
    deviations from the mean."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def add(self, values: Sequence[float]) -> None:
        if not values:
            return
        mean = fmean(values)
        apart, count = mean - self.mean, self.count + len(values)
        self.m2 += math.fsum((value - mean) ** 2 for value in values) + apart**2 * self.count * len(values) / count
        self.mean += apart * len(values) / count
        self.count = count

    @property
    def spread(self) -> float:
        """The population's standard deviation; 0 of nothing."""
        return math.sqrt(self.m2 / self.count) if self.count else 0.0


class Totals:
    """Weighs the terms' values, fills in abstentions, normalises, gates. Its only state is what ``running`` has seen.

    The state changes with :meth:`combine` alone, in the order of the calls; nothing in it depends on how a call's
    groups were shared out among actors.
    """

    def __init__(self, terms: Sequence[tuple[str, float, TermSettings]]):
        """``terms``: each one's name, weight and settings, in the order in which they are added up."""
        self.terms = tuple(terms)
        self._running = {name: Running() for name, _, settings in terms if settings.normalise == "running"}

    def combine(
        self, groups: Sequence[Sequence[Sample]], judgements: Sequence[Sequence[Judgement]]
    ) -> list[list[Judgement]]:
        """The judgements with their totals, made from ``terms``, which stay as they are: raw, None for abstained.

        Args:
            groups: the samples that were judged; those of a group share the card.
            judgements: one a sample; their totals are not looked at.
        """
        totals = [[0.0] * len(group) for group in groups]
        caps = [[math.inf] * len(group) for group in groups]
        for name, weight, settings in self.terms:
            raw = [[judgement.terms[name] for judgement in group] for group in judgements]
            filled = [_imputed(values, settings.neutral) for values in raw]
            for row, values in zip(
                totals, self._normalised(name, settings.normalise, groups, raw, filled), strict=True
            ):
                for at, value in enumerate(values):
                    row[at] += weight * value
            if settings.gate is not None:
                for cap, own in zip(caps, raw, strict=True):
                    for at, given in enumerate(own):
                        if given is not None and given < settings.gate.below:
                            cap[at] = min(cap[at], settings.gate.cap)
        return [
            [replace(judgement, total=min(total, cap)) for judgement, total, cap in zip(*rows, strict=True)]
            for rows in zip(judgements, totals, caps, strict=True)
        ]

    def weights(self) -> dict[str, float]:
        """Each term's weight in the total; 0 for one that is only logged."""
        return {name: weight for name, weight, _ in self.terms}

    def alone(self) -> Totals:
        """The same for samples without a group or a history: ``character`` and ``running`` have nothing to compare with
        and leave the value as it is, ``group`` finds no deviation in a group of one."""
        kept = ("none", "group")
        return Totals([(n, w, s if s.normalise in kept else replace(s, normalise="none")) for n, w, s in self.terms])

    def state(self) -> dict[str, Any]:
        """What :meth:`load_state` needs to go on with the same bits; plain JSON."""
        return {
            "running": {
                name: {"count": seen.count, "mean": seen.mean, "m2": seen.m2} for name, seen in self._running.items()
            }
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`; an empty mapping starts afresh.

        Raises:
            UserError: it is none, or another reward's.
        """
        try:
            found = {str(name): _running(entry) for name, entry in state.get("running", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"is no state of a reward's totals: {error}", place="totals.running") from error
        if found and found.keys() != self._running.keys():
            got, own = (", ".join(names) or "no term" for names in (found, self._running))
            raise UserError(f"is of {got}; this reward normalises {own} by what it has seen", place="totals.running")
        self._running = {name: found.get(name, Running()) for name in self._running}

    def _normalised(
        self,
        name: str,
        how: Normalise,
        groups: Sequence[Sequence[Sample]],
        raw: Sequence[Sequence[float | None]],
        filled: list[list[float]],
    ) -> list[list[float]]:
        if how == "group":
            return [_standardised(values, fmean(values), pstdev(values)) if values else [] for values in filled]
        if how == "character":
            return _by_card(groups, raw, filled)
        if how == "running":
            seen, now = self._running[name], [value for values in raw for value in values if value is not None]
            before = replace(seen)
            seen.add(now)
            scale = before if before.spread > _SPREAD_FLOOR else seen
            return [_standardised(values, scale.mean, scale.spread) for values in filled]
        return filled


def _by_card(
    groups: Sequence[Sequence[Sample]], raw: Sequence[Sequence[float | None]], filled: Sequence[list[float]]
) -> list[list[float]]:
    """Each card's values in its own standard deviations; the samples of a group are of one card."""
    given: dict[CharacterCard, list[float]] = {}
    for group, values in zip(groups, raw, strict=True):
        if group:
            given.setdefault(group[0].card, []).extend(value for value in values if value is not None)
    scales = {card: (fmean(values), pstdev(values)) if values else (0.0, 0.0) for card, values in given.items()}
    return [
        _standardised(values, *scales[group[0].card]) if group else []
        for group, values in zip(groups, filled, strict=True)
    ]


def _standardised(values: Sequence[float], mean: float, spread: float) -> list[float]:
    return [(value - mean) / spread if spread > _SPREAD_FLOOR else 0.0 for value in values]


def _imputed(values: Sequence[float | None], neutral: float) -> list[float]:
    """Abstentions replaced by the mean of the others, so that abstaining neither pays nor costs."""
    given = [value for value in values if value is not None]
    stand_in = fmean(given) if given else neutral
    return [stand_in if value is None else value for value in values]


def _running(entry: Mapping[str, Any]) -> Running:
    found = Running(int(entry["count"]), float(entry["mean"]), float(entry["m2"]))
    if found.count < 0 or found.m2 < 0 or not math.isfinite(found.mean) or not math.isfinite(found.m2):
        raise ValueError(f"got {dict(entry)}")
    return found

"""Policies side by side, on the same units, with paired intervals and the goals: ``comparison.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlrp.errors import UserError
from rlrp.evaluation.checks import Check, Measured, check_goals
from rlrp.evaluation.metrics import CONTRACT, METRICS, Direction, metric
from rlrp.evaluation.results import Evaluation
from rlrp.evaluation.statistics import Interval, mean_over, paired_bootstrap
from rlrp.files import write_json

_MISSING: dict[str, float | None] = {}
_ROLES = ("base", "sft", "rl")
_FEW_UNITS = 10


@dataclass(frozen=True)
class Row:
    """One metric: a value a policy, and for each compared policy its difference from the reference.

    The values of the reference and the compared policies are over the same ``n`` units, so differences of what is
    printed are the differences that were tested. A policy shown for context is averaged over those units it has.
    ``dropped`` counts units left out because one of them has no value there.
    """

    better: Direction
    values: dict[str, float | None]
    intervals: dict[str, Interval]
    n: int
    dropped: int


@dataclass(frozen=True)
class Comparison:
    """Everything the table and the report show.

    Args:
        policies: names in the order shown; ``targets`` are compared with ``reference``, others are context.
        names: from the name shown to the name in the policy's own file.
        rows: by metric name.
        seconds: wall time by stage.
        notes: what a reader should know before trusting the numbers.
    """

    policies: tuple[str, ...]
    reference: str
    targets: tuple[str, ...]
    names: dict[str, str]
    rows: dict[str, Row]
    checks: tuple[Check, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_gb: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def columns(self, target: str) -> list[str]:
        """The policies of one table: those shown for context, the reference, and the one compared with it."""
        return [policy for policy in self.policies if policy == target or policy not in self.targets]

    def as_dict(self) -> dict[str, Any]:
        """The content of ``comparison.json``; flat where the policies are base, sft and rl, else by policy."""
        return {
            "policies": list(self.policies),
            "metrics": {name: self._metric(row) for name, row in self.rows.items()},
            "seconds": self.seconds,
            "peak_memory_gb": self.peak_memory_gb,
            "checks": [check.as_dict() for check in self.checks],
            "names": self.names,
            "reference": self.reference,
            "notes": list(self.notes),
            "settings": self.settings,
        }

    def _metric(self, row: Row) -> dict[str, Any]:
        deltas = {name: _interval_dict(interval) for name, interval in row.intervals.items()}
        flat: dict[str, Any] = next(iter(deltas.values())) if len(deltas) == 1 else {"n": row.n}
        if set(self.policies) <= set(_ROLES) and (self.reference, *self.targets) == ("sft", "rl"):
            values: dict[str, Any] = {role: row.values.get(role) for role in _ROLES}
        else:
            values = {"values": row.values, "deltas": deltas}
        return {**values, **flat, "better": row.better, "dropped": row.dropped}


def compare(
    base: Evaluation | None,
    sft: Evaluation,
    rl: Evaluation,
    *,
    seconds: Mapping[str, float] | None = None,
    peak_memory_gb: float | None = None,
    kl_target: float | None = None,
    settings: Mapping[str, Any] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """RL against the SFT policy it started from, with the base model for context.

    Args:
        base: the model before any training; None leaves its column empty.
        seconds: wall time by stage.
        peak_memory_gb: of the run.
        kl_target: greatest mean KL that passes the KL goal.
        settings: the run's, kept in the file and shown in the report.

    Raises:
        UserError: the evaluations have no unit in common or disagree on a metric's direction.
    """
    shown = {"base": base, "sft": sft, "rl": rl} if base is not None else {"sft": sft, "rl": rl}
    evaluations = {role: evaluation for role, evaluation in shown.items() if evaluation is not None}
    comparison = _compare(evaluations, "sft", ("rl",), kl_target, settings, resamples, seed, always=CONTRACT)
    return replace(comparison, seconds=dict(seconds or {}), peak_memory_gb=peak_memory_gb)


def compare_policies(
    evaluations: Sequence[Evaluation],
    *,
    kl_target: float | None = None,
    settings: Mapping[str, Any] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Any two or more policies, each against the first; base, sft and rl by those names give what ``compare`` gives.

    Policies of the same name are told apart by their number: ``rl``, ``rl #2``. With three or more, every metric is
    over the units that all of them have.

    Raises:
        UserError: fewer than two, nothing in common, or a disagreement on a metric's direction.
    """
    if len(evaluations) < 2:
        raise UserError(f"got {len(evaluations)} evaluation, a comparison needs two or more")
    by_role = {evaluation.policy: evaluation for evaluation in evaluations}
    if len(evaluations) == len(_ROLES) and set(by_role) == set(_ROLES):
        return compare(
            by_role["base"], by_role["sft"], by_role["rl"],
            kl_target=kl_target, settings=settings, resamples=resamples, seed=seed,
        )  # fmt: skip
    named: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        name, number = evaluation.policy, 1
        while name in named:
            number += 1
            name = f"{evaluation.policy} #{number}"
        named[name] = evaluation
    reference, *targets = named
    return _compare(named, reference, tuple(targets), kl_target, settings, resamples, seed)


def write_comparison(path: str | Path, comparison: Comparison) -> None:
    """Write ``comparison.json``."""
    write_json(path, comparison.as_dict())


def _compare(
    evaluations: dict[str, Evaluation],
    reference: str,
    targets: tuple[str, ...],
    kl_target: float | None,
    settings: Mapping[str, Any] | None,
    resamples: int,
    seed: int,
    always: tuple[str, ...] = (),
) -> Comparison:
    names = _metric_names(evaluations, always)
    rows = {name: _row(name, evaluations, reference, targets, resamples, seed) for name in names}
    if not any(interval.n for row in rows.values() for interval in row.intervals.values()):
        raise UserError(
            f"the policies {', '.join(map(repr, (reference, *targets)))} have no card, item or paragraph in common; "
            "evaluate them on the same suites"
        )
    return Comparison(
        policies=tuple(evaluations),
        reference=reference,
        targets=targets,
        names={name: evaluation.policy for name, evaluation in evaluations.items()},
        rows=rows,
        checks=tuple(c for target in targets for c in _checks(rows, target, reference, kl_target)),
        settings={
            "run": dict(settings or {}),
            "comparison": {"resamples": resamples, "seed": seed, "kl_target": kl_target},
            "n_cards": {name: evaluation.n_cards for name, evaluation in evaluations.items()},
            "evaluation": {name: evaluation.settings for name, evaluation in evaluations.items()},
        },
        notes=_notes(evaluations, rows),
    )


def _metric_names(evaluations: Mapping[str, Evaluation], always: tuple[str, ...]) -> list[str]:
    """Known metrics in their order, then the users' own by name."""
    found = {name for evaluation in evaluations.values() for name in evaluation.units} | set(always)
    return [name for name in METRICS if name in found] + sorted(found - METRICS.keys())


def _direction(name: str, evaluations: Mapping[str, Evaluation]) -> Direction:
    said = {policy: e.better[name] for policy, e in evaluations.items() if name in e.better}
    if len(set(said.values())) > 1:
        raise UserError(
            "the policies disagree on which way is better: "
            + ", ".join(f"{policy!r} says {way}" for policy, way in said.items()),
            place=f"better.{name}",
        )
    return next(iter(said.values()), metric(name).better)


def _row(
    name: str,
    evaluations: Mapping[str, Evaluation],
    reference: str,
    targets: tuple[str, ...],
    resamples: int,
    seed: int,
) -> Row:
    better, transform = _direction(name, evaluations), metric(name).transform
    units = {policy: evaluation.units.get(name, _MISSING) for policy, evaluation in evaluations.items()}
    # A policy that lacks the metric altogether (the reference has no KL from itself) must not empty it for the others.
    having = [units[p] for p in (reference, *targets) if any(value is not None for value in units[p].values())]
    seen = sorted({unit for policy in having for unit in policy})
    common = [unit for unit in seen if all(policy.get(unit) is not None for policy in having)]
    kept = {policy: {unit: values.get(unit) for unit in common} for policy, values in units.items()}
    intervals = {
        target: paired_bootstrap(kept[reference], kept[target], resamples=resamples, seed=seed, transform=transform)
        for target in targets
    }
    values = {policy: mean_over(kept[policy], common, transform) for policy in evaluations}
    return Row(better, values, intervals, len(common), len(seen) - len(common))


def _checks(rows: Mapping[str, Row], target: str, reference: str, kl_target: float | None) -> tuple[Check, ...]:
    measured = {
        name: Measured(row.better, row.values[reference], row.values[target], row.intervals[target])
        for name, row in rows.items()
    }
    return check_goals(measured, policy=target, against=reference, kl_target=kl_target)


def _interval_dict(interval: Interval) -> dict[str, Any]:
    shown: dict[str, Any] = {"delta": interval.delta, "ci95": [interval.low, interval.high], "n": interval.n}
    return {**shown, "reason": interval.reason} if interval.reason else shown


def _notes(evaluations: Mapping[str, Evaluation], rows: Mapping[str, Row]) -> tuple[str, ...]:
    notes = []
    for name, row in rows.items():
        if row.dropped:
            total = f"{row.n + row.dropped} {metric(name).unit}"
            notes.append(
                f"{metric(name).label}: {row.dropped} of {total} left out: no value under at least one policy."
            )
    few = [metric(name).label for name, row in rows.items() if 2 <= row.n < _FEW_UNITS]
    if few:
        notes.append(f"Fewer than {_FEW_UNITS} units: {', '.join(few)}. Such intervals tend to be too narrow.")
    first, *others = evaluations.values()
    differing = sorted({key for e in others for key in first.settings.keys() | e.settings.keys()
                        if first.settings.get(key) != e.settings.get(key)})  # fmt: skip
    if differing:
        notes.append(f"The evaluations' settings differ in: {', '.join(differing)}.")
    return tuple(notes)

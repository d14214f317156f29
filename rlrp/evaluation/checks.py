"""The goals a trained policy is held to, each with the exact rule it was tested by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlrp.evaluation.metrics import Direction, difference, metric, number
from rlrp.evaluation.statistics import Interval
from rlrp.evaluation.text import policy_label

MAX_LOSS = 0.01  # of a reward on a scale of about 1: what "not worse" still tolerates
MAX_GENERAL_LOSS_POINTS = 1.0
_ROUNDING = 1e-9  # 0.50 - 0.49 is a little more than 0.01 in binary


@dataclass(frozen=True)
class Measured:
    """One metric for the reference and for the policy that is held to the goals."""

    better: Direction
    reference: float | None
    policy: float | None
    interval: Interval


@dataclass(frozen=True)
class Check:
    """One goal.

    Args:
        policy: the policy that is held to it.
        goal: a few words.
        rule: precisely what was tested.
        found: the numbers.
        passed: None where the numbers needed are missing or the rule has nothing to test.
    """

    policy: str
    goal: str
    rule: str
    found: str
    passed: bool | None

    def as_dict(self) -> dict[str, object]:
        detail = f"{self.found}; tested: {self.rule}"
        return {"policy": self.policy, "goal": self.goal, "passed": self.passed, "detail": detail}


Verdict = tuple[bool | None, str]


def check_goals(
    measured: Mapping[str, Measured], *, policy: str, against: str, kl_target: float | None = None
) -> tuple[Check, ...]:
    """Hold ``policy`` to every goal, against the reference policy called ``against``.

    Args:
        measured: by metric name; a metric that is missing leaves its goal untested.
        kl_target: greatest mean KL allowed, in the unit of the ``kl`` metric; None leaves that goal untested.
    """
    new, old = policy_label(policy), policy_label(against)
    difference_of = f"{new} minus {old}"
    up = f"the 95% interval of {difference_of} lies wholly above 0"
    not_worse = (
        f"the 95% interval of {difference_of} does not lie wholly below 0, and the mean falls by at most {MAX_LOSS}"
    )
    goals: tuple[tuple[str, str, str, Callable[[Measured], Verdict]], ...] = (
        ("composite", "Composite reward is higher", up, lambda m: _is_up("composite", m)),
        ("in_character", "Stays in character more", up, lambda m: _is_up("in_character", m)),
        ("blacklist_hits", "Blacklist hits at least halved",
         f"hits per 100 replies of {new} are at most half of those of {old}", _is_halved),
        ("dissonance", "Dissonance not worse", not_worse, lambda m: _is_not_worse("dissonance", m)),
        ("judge", "Judge not lower", not_worse, lambda m: _is_not_worse("judge", m)),
        ("general_exact", "General ability kept",
         f"exact match falls by at most {MAX_GENERAL_LOSS_POINTS:g} percentage point; the interval is not tested",
         _is_kept),
        ("kl", "KL within its target",
         f"the mean KL of {new} is at most {'its target' if kl_target is None else format(kl_target, 'g')}",
         lambda m: _is_within(m, kl_target)),
    )  # fmt: skip
    checks = []
    for name, goal, rule, test in goals:
        passed, found = test(measured[name]) if name in measured else (None, f"{metric(name).label}: not measured")
        checks.append(Check(policy, goal, rule, found, passed))
    return tuple(checks)


def _numbers(name: str, m: Measured) -> str:
    interval = m.interval
    if interval.delta is None:
        return f"not measured for both ({interval.reason})"
    because = f" (no interval: {interval.reason})" if interval.low is None else ""
    return f"{difference(name, interval)} over {interval.n} {metric(name).unit}{because}"


def _gains(m: Measured) -> tuple[float, float, float] | None:
    """Difference and interval, turned so that more is better; None without an interval."""
    delta, low, high = m.interval.delta, m.interval.low, m.interval.high
    if delta is None or low is None or high is None:
        return None
    return (delta, low, high) if m.better == "higher" else (-delta, -high, -low)


def _is_up(name: str, m: Measured) -> Verdict:
    gains = _gains(m)
    return (None if gains is None else gains[1] > 0), _numbers(name, m)


def _is_not_worse(name: str, m: Measured) -> Verdict:
    gains = _gains(m)
    if gains is None:
        return None, _numbers(name, m)
    delta, _, high = gains
    return high >= 0 and delta >= -MAX_LOSS - _ROUNDING, _numbers(name, m)


def _is_halved(m: Measured) -> Verdict:
    before, after = m.reference, m.policy
    if before is None or after is None:
        return None, "not measured for both"
    found = f"{number('blacklist_hits', before)} to {number('blacklist_hits', after)} per 100 replies"
    if before == 0 and after == 0:
        return None, f"nothing to halve: {found}"
    return after <= before / 2 + _ROUNDING, found


def _is_kept(m: Measured) -> Verdict:
    if m.reference is None or m.policy is None:
        return None, "not measured for both"
    points = (m.policy - m.reference) * 100
    before, after = number("general_exact", m.reference), number("general_exact", m.policy)
    found = f"{before} to {after} over {m.interval.n} items"
    return points >= -MAX_GENERAL_LOSS_POINTS - _ROUNDING, found


def _is_within(m: Measured, target: float | None) -> Verdict:
    if m.policy is None:
        return None, "not measured"
    found = f"mean KL {number('kl', m.policy)}"
    return (None, f"{found}, no target given") if target is None else (m.policy <= target + _ROUNDING, found)

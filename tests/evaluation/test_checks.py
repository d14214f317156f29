from __future__ import annotations

import pytest

from rlrp.evaluation.checks import Check, Measured, check_goals
from rlrp.evaluation.statistics import Interval


def _check(name: str, before, after, low=None, high=None, *, kl_target=None, better="higher") -> Check:
    delta = None if before is None or after is None else after - before
    measured = Measured(better, before, after, Interval(delta, low, high, 20, "" if low is not None else "why"))
    checks = check_goals({name: measured}, policy="rl", against="sft", kl_target=kl_target)
    return next(check for check in checks if check.goal == GOALS[name])


GOALS = {
    "composite": "Composite reward is higher",
    "in_character": "Stays in character more",
    "blacklist_hits": "Blacklist hits at least halved",
    "dissonance": "Dissonance not worse",
    "judge": "Judge not lower",
    "general_exact": "General ability kept",
    "kl": "KL within its target",
}


@pytest.mark.parametrize("name", ["composite", "in_character"])
@pytest.mark.parametrize(
    ("low", "high", "passed"), [(0.01, 0.2, True), (0.0, 0.2, False), (-0.1, 0.3, False), (None, None, None)]
)
def test_up_means_an_interval_wholly_above_0(name, low, high, passed):
    assert _check(name, 0.5, 0.6, low, high).passed is passed


@pytest.mark.parametrize("name", ["dissonance", "judge"])
@pytest.mark.parametrize(
    ("after", "low", "high", "passed"),
    [
        (0.60, 0.05, 0.15, True),
        (0.49, -0.05, 0.03, True),  # 0.49 - 0.5 is a hair under -0.01 in binary
        (0.48, -0.05, 0.03, False),  # too far down, though the interval holds 0
        (0.495, -0.009, -0.001, False),  # a small loss, but a sure one
        (0.48, None, None, None),
    ],
)
def test_not_worse_means_neither_surely_nor_much(name, after, low, high, passed):
    assert _check(name, 0.5, after, low, high).passed is passed


def test_not_worse_follows_the_metrics_direction():
    assert _check("dissonance", 0.5, 0.6, 0.05, 0.15, better="lower").passed is False
    assert _check("dissonance", 0.5, 0.4, -0.15, -0.05, better="lower").passed is True


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [(20.0, 10.0, True), (20.0, 10.1, False), (0.0, 0.0, None), (0.0, 1.0, False), (3.0, 0.0, True), (None, 1.0, None)],
)
def test_hits_are_halved(before, after, passed):
    assert _check("blacklist_hits", before, after).passed is passed


def test_nothing_to_halve_says_so():
    assert "nothing to halve" in _check("blacklist_hits", 0.0, 0.0).found


@pytest.mark.parametrize(("after", "passed"), [(0.55, True), (0.49, True), (0.489, False), (None, None)])
def test_general_ability_may_fall_by_one_point(after, passed):
    assert _check("general_exact", 0.50, after).passed is passed


@pytest.mark.parametrize(("target", "passed"), [(0.08, True), (0.06, True), (0.05, False), (None, None)])
def test_kl_is_held_to_its_target(target, passed):
    assert _check("kl", None, 0.06, kl_target=target).passed is passed


def test_what_was_not_measured_is_not_tested():
    checks = check_goals({}, policy="rl", against="sft", kl_target=0.1)
    assert [check.goal for check in checks] == list(GOALS.values())
    assert {check.passed for check in checks} == {None}


def test_the_detail_holds_the_numbers_and_the_rule():
    detail = _check("judge", 0.5, 0.6, 0.05, 0.15).as_dict()["detail"]
    assert "+0.100 [+0.050, +0.150] over 20 cards" in detail
    assert "the 95% interval of RL minus SFT does not lie wholly below 0, and the mean falls by at most 0.01" in detail

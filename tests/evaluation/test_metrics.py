from __future__ import annotations

import pytest

from rlrp.evaluation.metrics import CONTRACT, difference, metric, number, verdict
from rlrp.evaluation.statistics import Interval


def test_the_names_that_outside_checks_rely_on():
    assert set(CONTRACT) == {
        "composite", "in_character", "dissonance", "blacklist", "judge", "over_cooperation",
        "general_exact", "general_perplexity", "kl", "reply_tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (0.1, 0.2, "higher", "better"),
        (0.1, 0.2, "lower", "worse"),
        (-0.2, -0.1, "lower", "better"),
        (-0.2, -0.1, "higher", "worse"),
        (-0.1, 0.1, "higher", "unclear"),
        (0.0, 0.1, "higher", "unclear"),  # touching 0 is not above it
        (None, None, "higher", "none"),
    ],
)
def test_verdicts_need_the_whole_interval_on_one_side(low, high, better, expected):
    assert verdict(Interval(0.1, low, high, 4), better) == expected
    assert verdict(Interval(0.1, low, high, 4), better, descriptive=True) == "neutral"


@pytest.mark.parametrize(
    ("name", "value", "signed", "text"),
    [
        ("judge", 0.12345, False, "0.123"),
        ("judge", -0.0001, False, "0.000"),
        ("judge", -0.0001, True, "-0.0001"),  # the side of 0 decides the verdict and must be seen
        ("judge", 0.0, True, "0.000"),
        ("judge", 1e-12, True, "0.000000"),
        ("general_exact", 0.625, False, "62.5%"),
        ("general_exact", -0.0125, True, "-1.2"),
        ("general_perplexity", 1234.5, False, "1,234.50"),
        ("mine", None, False, "-"),
    ],
)
def test_numbers(name, value, signed, text):
    assert number(name, value, signed=signed) == text


def test_differences_of_percentages_are_points():
    assert difference("general_exact", Interval(0.01, -0.02, 0.04, 9)) == "+1.0 [-2.0, +4.0] pt"
    assert difference("judge", Interval(0.5, None, None, 1, "one unit")) == "+0.500"
    assert difference("general_exact", Interval(None, None, None, 0, "none")) == "-"


def test_a_users_own_metric_gets_a_name():
    assert metric("wit_and_charm").label == "Wit and charm"
    assert metric("_").label == "_"

"""Measures on numbers small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from reward.measures import auc, bootstrap_interval, brier, calibration_error, pair_accuracy


def test_auc_counts_pairs_and_half_of_ties():
    # Positives 0.9 and 0.5 against negatives 0.5 and 0.1: 1 + 1 + 0.5 + 1 of 4.
    assert auc([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1]) == pytest.approx(3.5 / 4)


def test_auc_draws_by_weight():
    # The negative above the positive weighs 3, the one below it 1.
    assert auc([1, 0, 0], [0.5, 0.9, 0.1], [1, 3, 1]) == pytest.approx(1 / 4)


def test_auc_of_one_class_is_nan():
    assert math.isnan(auc([1, 1], [0.2, 0.3]))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 4)), min_size=2, max_size=30))
def test_auc_equals_scikit_learns(rows: list[tuple[bool, int, int]]):
    labels, scores, weights = (list(column) for column in zip(*rows, strict=True))
    if len(set(labels)) == 2:
        expected = roc_auc_score(labels, scores, sample_weight=weights)
        assert auc(labels, scores, weights) == pytest.approx(expected)


def test_brier_is_the_mean_squared_error():
    assert brier([1, 0], [0.8, 0.4]) == pytest.approx((0.04 + 0.16) / 2)


def test_calibration_error_is_the_gap_in_each_bin():
    # Bin of 0.9: mean 0.9, half of it true, gap 0.4; bin of 0.1: mean 0.1, none true, gap 0.1; equal sizes.
    assert calibration_error([1, 0, 0, 0], [0.9, 0.9, 0.1, 0.1]) == pytest.approx(0.25)


def test_a_probability_of_one_falls_into_the_last_bin():
    assert calibration_error([1], [1.0]) == pytest.approx(0.0)


def test_the_interval_draws_whole_groups():
    values = np.array([0.0] * 50 + [1.0] * 50)
    low, high = bootstrap_interval(lambda rows: float(values[rows].mean()), ["a"] * 50 + ["b"] * 50)
    # With two groups a draw of the same one twice has odds 1/4 each way, so that the interval is everything.
    assert (low, high) == (0.0, 1.0)


def test_pairs_count_ties_as_half():
    assert pair_accuracy([1, 2, 3, 0], [0, 2, 1, 5]) == pytest.approx(2.5 / 4)
    assert math.isnan(pair_accuracy([], []))

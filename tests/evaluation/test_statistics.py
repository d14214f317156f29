from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.evaluation.statistics import mean_over, paired_bootstrap

values = st.floats(-100, 100)
pairs = st.dictionaries(st.text(max_size=3), st.tuples(values, values), min_size=2, max_size=8)


def _columns(rows: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    return {f"u{i:03}": float(r[0]) for i, r in enumerate(rows)}, {f"u{i:03}": float(r[1]) for i, r in enumerate(rows)}


def test_two_units_whose_differences_are_0_and_1():
    # Resampled means are 0, 1/2 and 1 with odds 1/4, 1/2 and 1/4: the 2.5% and 97.5% points are the extremes.
    interval = paired_bootstrap({"a": 5.0, "b": 7.0}, {"a": 5.0, "b": 8.0}, resamples=1000)
    assert (interval.delta, interval.low, interval.high, interval.n) == (0.5, 0.0, 1.0, 2)
    assert interval.reason == ""


def test_equal_differences_leave_no_width():
    interval = paired_bootstrap({"a": 1.0, "b": 10.0, "c": 100.0}, {"a": 1.5, "b": 10.5, "c": 100.5})
    assert (interval.delta, interval.low, interval.high) == pytest.approx((0.5, 0.5, 0.5))


def test_units_without_a_value_on_both_sides_do_not_count():
    a = {"a": 1.0, "b": None, "c": 3.0, "only a": 50.0}
    b = {"a": 2.0, "b": 9.0, "c": 5.0, "only b": 50.0}
    assert paired_bootstrap(a, b) == paired_bootstrap({"a": 1.0, "c": 3.0}, {"a": 2.0, "c": 5.0})


@pytest.mark.parametrize(("a", "delta", "n"), [({}, None, 0), ({"x": None}, None, 0), ({"x": 1.0}, 2.0, 1)])
def test_fewer_than_two_units_have_no_interval_and_say_why(a, delta, n):
    interval = paired_bootstrap(a, {"x": 3.0})
    assert (interval.delta, interval.low, interval.high, interval.n) == (delta, None, None, n)
    assert interval.reason


def test_transform_acts_on_the_mean_and_not_on_the_units():
    # exp(mean(2, 4)) - exp(mean(1, 3)) = e^3 - e^2, not the mean of the exponentials.
    interval = paired_bootstrap({"p": 1.0, "q": 3.0}, {"p": 2.0, "q": 4.0}, transform=np.exp)
    assert interval.delta == pytest.approx(math.e**3 - math.e**2)
    # The resampled means are (1, 2), (2, 3) and (3, 4).
    assert interval.low == pytest.approx(math.e**2 - math.e)
    assert interval.high == pytest.approx(math.e**4 - math.e**3)


def test_overflow_gives_a_reason_instead_of_infinity():
    interval = paired_bootstrap({"p": 1.0, "q": 1.0}, {"p": 1.0, "q": 1500.0}, transform=np.exp)
    assert interval.low is None and "too large" in interval.reason
    assert mean_over({"p": 2000.0}, ["p"], np.exp) is None


@pytest.mark.parametrize("transform", [None, np.exp])
def test_agrees_with_scipy(transform):
    rng = np.random.default_rng(4)
    rows = rng.normal(0, 0.4, (30, 1)) + rng.normal([1.0, 1.1], 0.2, (30, 2))
    a, b = _columns(rows)
    ours = paired_bootstrap(a, b, resamples=20_000, transform=transform)
    move = transform or (lambda x: x)
    oracle = scipy.stats.bootstrap(
        (rows[:, 0], rows[:, 1]),
        lambda x, y, axis=-1: move(y.mean(axis=axis)) - move(x.mean(axis=axis)),
        paired=True, method="percentile", n_resamples=20_000, rng=np.random.default_rng(9), batch=2000,
    ).confidence_interval  # fmt: skip
    # The ends of 20,000 replicates wobble by about 2% of the width from seed to seed.
    width = oracle.high - oracle.low
    assert ours.low == pytest.approx(oracle.low, abs=0.04 * width)
    assert ours.high == pytest.approx(oracle.high, abs=0.04 * width)


def test_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        card = rng.normal(0, 1.0, 40)  # shared by both policies, so it must cancel
        a, b = _columns(np.stack([card, card + rng.normal(0.3, 0.5, 40)], axis=1))
        interval = paired_bootstrap(a, b, resamples=400, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    # Nominal 95%, expected 93.5% with 40 units; the standard error of 400 trials is 1.2%.
    assert 0.885 < covered / 400 < 0.985


@given(pairs, st.randoms())
@settings(deadline=None, max_examples=50)
def test_order_of_units_does_not_matter_and_swapping_sides_flips_the_sign(rows, random):
    a, b = {u: x for u, (x, _) in rows.items()}, {u: y for u, (_, y) in rows.items()}
    order = list(rows)
    random.shuffle(order)
    one = paired_bootstrap(a, b, resamples=50)
    assert paired_bootstrap({u: a[u] for u in order}, {u: b[u] for u in reversed(order)}, resamples=50) == one
    back = paired_bootstrap(b, a, resamples=50)
    assert (back.delta, back.low, back.high) == pytest.approx((-one.delta, -one.high, -one.low), abs=1e-9)


@given(pairs)
@settings(deadline=None, max_examples=50)
def test_the_interval_stays_within_the_units_differences(rows):
    interval = paired_bootstrap(
        {u: x for u, (x, _) in rows.items()}, {u: y for u, (_, y) in rows.items()}, resamples=50
    )
    differences = [y - x for x, y in rows.values()]
    assert min(differences) - 1e-9 <= interval.low <= interval.high <= max(differences) + 1e-9


def test_thousands_of_units_are_drawn_in_blocks():
    rng = np.random.default_rng(1)
    a, b = _columns(rng.normal([0, 1], 1.0, (3000, 2)))
    interval = paired_bootstrap(a, b, resamples=1000)
    # Standard error sqrt(2/3000) = 0.0258: half the width is 1.96 of it.
    assert (interval.high - interval.low) / 2 == pytest.approx(0.0506, rel=0.15)


@pytest.mark.parametrize("arguments", [{"resamples": 0}, {"confidence": 1.0}])
def test_impossible_settings_raise(arguments):
    with pytest.raises(ValueError, match="need"):
        paired_bootstrap({"a": 1.0}, {"a": 1.0}, **arguments)


def test_a_value_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="'b'"):
        paired_bootstrap({"a": 1.0, "b": math.nan}, {"a": 1.0, "b": 1.0})

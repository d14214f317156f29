"""Figures that say how far a classifier of replies can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_HALF_INTERVAL = 2.5
"""Per cent on either side of a 95 % interval."""


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The chance that a positive outranks a negative, each drawn by weight; ties count one half. nan with one class."""
    y, s = np.asarray(labels, float), np.asarray(scores, float)
    w = np.ones_like(s) if weights is None else np.asarray(weights, float)
    _, place = np.unique(s, return_inverse=True)
    positive = np.bincount(place, weights=w * y)
    negative = np.bincount(place, weights=w * (1 - y))
    total = positive.sum() * negative.sum()
    if total <= 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / total)


def brier(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean squared distance of the probability from what was the case."""
    y, p = np.asarray(labels, float), np.asarray(probabilities, float)
    return float(np.average((p - y) ** 2, weights=None if weights is None else np.asarray(weights, float)))


def calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, bins: int = 10
) -> float:
    """Expected calibration error: over equally wide bins, |mean probability - share of positives|, by weight."""
    y, p = np.asarray(labels, float), np.asarray(probabilities, float)
    w = np.ones_like(p) if weights is None else np.asarray(weights, float)
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=w * (p - y), minlength=bins)
    return float(np.abs(gaps).sum() / w.sum())


def bootstrap_interval(
    measure: Callable[[NDArray[np.intp]], float], groups: Sequence[str], *, draws: int = 400, seed: int = 0
) -> tuple[float, float]:
    """A 95 % interval of ``measure(rows)`` when whole groups (characters) are drawn with replacement.

    Replies of one character are alike, so that drawing single rows would make the interval too narrow.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(member == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    values = [
        measure(np.concatenate([rows[index] for index in rng.integers(len(names), size=len(names))]))
        for _ in range(draws)
    ]
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, [_HALF_INTERVAL, 100 - _HALF_INTERVAL])
    return float(low), float(high)


def figure(
    measure: Callable[[NDArray[np.intp]], float], groups: Sequence[str], *, draws: int = 400, seed: int = 0
) -> dict[str, Any]:
    """``{"value", "ci95", "n"}`` of ``measure(rows)`` for JSON: over all rows, with :func:`bootstrap_interval`."""
    if not len(groups):
        return {"value": None, "ci95": [None, None], "n": 0}
    low, high = bootstrap_interval(measure, groups, draws=draws, seed=seed)
    value = rounded(measure(np.arange(len(groups))))
    return {"value": value, "ci95": [rounded(low), rounded(high)], "n": len(groups)}


def rounded(value: float) -> float | None:
    """Four digits; None for what is not finite."""
    return round(float(value), 4) if np.isfinite(value) else None


def pair_accuracy(better: ArrayLike, worse: ArrayLike) -> float:
    """How often the better of two scores is the higher; ties count one half. nan without pairs."""
    gap = np.asarray(better, float) - np.asarray(worse, float)
    return float(np.mean((gap > 0) + 0.5 * (gap == 0))) if gap.size else float("nan")

"""How far scores agree with people's ratings: AUC and rank correlation, each with an interval over characters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward.measures import auc, calibration_error, figure, rounded
from reward.people.ratings import Rating
from reward.spans import visible
from reward.text import units

Floats = NDArray[np.float64]
LOW, HIGH = 2.0, 4.0
"""CharacterBench's scale: 2 is an assistant's or an encyclopaedia's manner, 4 and 5 a character's. AUC tells replies
rated ``LOW`` from those rated ``HIGH`` or more; 1 (nonsense) and 3 (undecided) are left out."""
_DIGITS = 4


def agreement(scores: ArrayLike, ratings: Sequence[Rating], aim: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Figures of one score of every rating; nan where the score abstains, and those are left out.

    Returns:
        ``auc``: for each dimension of the aim ``{"value", "ci95", "n", "within_generator", "without_length"}``;
        ``spearman``: for every dimension ``{"value", "ci95", "n"}``; ``abstained``, a share.
    """
    values = np.asarray(scores, float)
    given = np.isfinite(values)
    dimensions = np.array([rating.dimension for rating in ratings], dtype=object)
    labels = np.array([rating.score for rating in ratings])
    found: dict[str, Any] = {"auc": {}, "spearman": {}, "abstained": round(float(1 - given.mean()), _DIGITS)}
    for dimension in sorted(set(dimensions)):
        rows = np.flatnonzero((dimensions == dimension) & given)
        own = [ratings[row] for row in rows.tolist()]
        found["spearman"][dimension] = _over_characters(spearman, labels[rows], values[rows], own, seed)
        if dimension in aim:
            told = rows[(labels[rows] == LOW) | (labels[rows] >= HIGH)]
            own, good = [ratings[row] for row in told.tolist()], labels[told] >= HIGH
            told_figure = _over_characters(auc, good, values[told], own, seed)
            told_figure["within_generator"] = rounded(within(good, values[told], [r.generator for r in own]))
            told_figure["without_length"] = rounded(auc(good, without_length(values[told], lengths(own))))
            found["auc"][dimension] = told_figure
    return found


def _over_characters(
    measure: Callable[..., float], labels: NDArray[Any], values: Floats, own: Sequence[Rating], seed: int
) -> dict[str, Any]:
    return figure(lambda rows: measure(labels[rows], values[rows]), [r.character for r in own], seed=seed)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation; nan where one side does not vary."""
    from scipy.stats import rankdata

    a, b = rankdata(first), rankdata(second)
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def within(labels: ArrayLike, values: ArrayLike, groups: Sequence[str]) -> float:
    """AUC over pairs of replies by the same generator alone: telling generators apart earns nothing."""
    y, s, g = np.asarray(labels, bool), np.asarray(values, float), np.asarray(groups, object)
    won = total = 0.0
    for group in set(groups):
        good, bad = s[(g == group) & y], s[(g == group) & ~y]
        gap = good[:, None] - bad[None, :]
        won += float((gap > 0).sum() + 0.5 * (gap == 0).sum())
        total += gap.size
    return won / total if total else float("nan")


def without_length(values: ArrayLike, length: ArrayLike) -> Floats:
    """The scores less what a straight line through the logarithm of the length explains of them."""
    s, x = np.asarray(values, float), np.log1p(np.asarray(length, float))
    if len(s) < 3 or x.std() == 0:
        return s
    slope = np.cov(x, s, bias=True)[0, 1] / x.var()
    return np.asarray(s - slope * (x - x.mean()))


def lengths(ratings: Sequence[Rating]) -> Floats:
    """Units of each reply."""
    return np.array([units(visible(rating.sample.reply)) for rating in ratings], float)


def shortness(ratings: Sequence[Rating]) -> Floats:
    """The length baseline: in these ratings the shorter reply is the better one."""
    return -lengths(ratings)


def published(ratings: Sequence[Rating]) -> Floats:
    """A published judge's scores without a reference; nan where there are none."""
    return np.array([np.nan if r.published is None else r.published for r in ratings], float)


def calibration(
    probabilities: ArrayLike, good: ArrayLike, bins: int = 8, weights: ArrayLike | None = None
) -> dict[str, Any]:
    """The expected calibration error, and of each bin of equally many replies the mean probability and the share."""
    p, y = np.asarray(probabilities, float), np.asarray(good, float)
    w = np.ones_like(p) if weights is None else np.asarray(weights, float)
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), bins) if w[part].sum() > 0]
    points = [[rounded(np.average(own[part], weights=w[part])) for own in (p, y)] for part in parts]
    return {"ece": rounded(calibration_error(y, p, w)), "points": points, "n": len(p)}


def cell(figure: Mapping[str, Any] | None) -> str:
    """``0.88 (0.81 to 0.94)``."""
    if not figure or figure["value"] is None:
        return "-"
    low, high = figure["ci95"]
    return f"{figure['value']:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")

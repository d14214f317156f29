"""Paired comparison of two policies on the same units: a cluster bootstrap over cards, items or paragraphs.

A unit is resampled whole, with its value under both policies, so what makes a card hard for both cancels out. The
interval speaks of other cards like these; it says nothing of other training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Transform = Callable[[Floats], Floats]

_DRAWS_AT_ONCE = 1_000_000  # bounds the memory of one block of resamples


@dataclass(frozen=True)
class Interval:
    """A difference of means and its interval.

    Args:
        delta: second policy minus first; None where no unit has both values.
        low: lower end of the interval; None, with ``high``, where there is none to give.
        high: upper end.
        n: units that have a value under both policies.
        reason: why the interval is missing; empty where it is there.
    """

    delta: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""


def paired_units(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> list[str]:
    """The units with a value under both, sorted: results must not depend on the order of a file."""
    return sorted(unit for unit in a.keys() & b.keys() if a[unit] is not None and b[unit] is not None)


def paired_bootstrap(
    a: Mapping[str, float | None],
    b: Mapping[str, float | None],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    transform: Transform | None = None,
) -> Interval:
    """Percentile bootstrap interval of ``transform(mean(b)) - transform(mean(a))`` over the units both have.

    Efron and Tibshirani (1993), ch. 13. With fewer than about ten units percentile intervals are somewhat too narrow.

    Args:
        a: unit id to value under the reference policy; None where every reply abstained.
        b: the same under the policy that is compared with it.
        resamples: bootstrap replicates.
        seed: of the resampling; the same units and seed give the same interval.
        confidence: coverage aimed at, in (0, 1).
        transform: applied to each resampled mean, elementwise: ``np.exp`` turns mean nats per token into perplexity.

    Raises:
        ValueError: a value that is not finite, or settings out of range.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"got resamples={resamples}, confidence={confidence}; need >= 1 and a number in (0, 1)")
    units = paired_units(a, b)
    if not units:
        return Interval(None, None, None, 0, "no unit has a value under both policies")
    pairs = np.array([[a[unit], b[unit]] for unit in units], dtype=np.float64)  # (n, 2)
    if not np.isfinite(pairs).all():
        raise ValueError(f"unit {units[int(np.argmin(np.isfinite(pairs).all(axis=1)))]!r}: value is not finite")
    delta = float(_difference(pairs.mean(axis=0), transform))
    if not np.isfinite(delta):
        return Interval(None, None, None, len(units), "the difference is too large to be a number")
    if len(units) < 2:
        return Interval(delta, None, None, len(units), "one unit only; an interval needs two or more")
    deltas = _resampled(pairs, resamples, seed, transform)
    if not np.isfinite(deltas).all():
        return Interval(delta, None, None, len(units), "a resampled difference is too large to be a number")
    tail = (1 - confidence) / 2
    low, high = np.quantile(deltas, [tail, 1 - tail])
    return Interval(delta, float(low), float(high), len(units))


def mean_over(values: Mapping[str, float | None], units: list[str], transform: Transform | None = None) -> float | None:
    """``transform`` of the mean over those ``units`` that have a value; None if none has or it is not finite."""
    present = [value for unit in units if (value := values.get(unit)) is not None]
    if not present:
        return None
    mean = np.array(np.mean(np.array(present, dtype=np.float64)))
    with np.errstate(over="ignore"):
        result = float(mean if transform is None else transform(mean))
    return result if np.isfinite(result) else None


def _difference(means: Floats, transform: Transform | None) -> Any:
    """``means[..., 1] - means[..., 0]`` after the transform; overflow yields a value that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        moved = means if transform is None else transform(means)
        return moved[..., 1] - moved[..., 0]


def _resampled(pairs: Floats, resamples: int, seed: int, transform: Transform | None) -> Floats:
    """``resamples`` differences, drawn in blocks so that thousands of units do not fill the memory."""
    n = len(pairs)
    rng = np.random.default_rng(seed)
    block = max(1, _DRAWS_AT_ONCE // n)
    parts = []
    for start in range(0, resamples, block):
        drawn = rng.integers(n, size=(min(block, resamples - start), n))
        parts.append(_difference(pairs[drawn].mean(axis=1), transform))
    return np.concatenate(parts)

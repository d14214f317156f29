"""Training curves from the rows of ``metrics.jsonl``: which keys are drawn, gaps, thinning, running means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rlrp.evaluation.charts import Point, brief, line_chart
from rlrp.evaluation.metrics import METRICS, metric

_MAX_POINTS = 300
_SMOOTH_FROM = 30  # fewer points are drawn as they are
_NAMED = (
    ("reward/total", "Reward, total"),
    ("judge", "Judge (never optimised)"),
    ("kl", "KL to the reference"),
    ("reply_tokens", "Reply length, tokens"),
    ("entropy", "Entropy"),
)


@dataclass(frozen=True)
class Panel:
    """One small chart: its key and heading, the values it starts and ends at, and the drawing."""

    key: str
    heading: str
    start: str
    end: str
    smoothed: bool
    chart: Markup


def panels(rows: Sequence[Mapping[str, Any]], *, kl_target: float | None = None) -> list[Panel]:
    """A chart for the total reward, each term, the judge, KL, reply length and entropy, where the rows have them.

    Rows without a step, and values that are not finite numbers, are gaps. A ``<key>_std`` beside a key is its band.
    """
    made = []
    for key, heading in _keys(rows):
        points = thin(series(rows, key), _MAX_POINTS)
        if not points:
            continue
        smooth = running_mean(points, max(5, len(points) // 12)) if len(points) >= _SMOOTH_FROM else []
        limit = kl_target if key == "kl" else None
        chart = line_chart(points, title=f"{heading} by step", smooth=smooth, limit=limit, limit_label="target")
        ends = smooth or points
        span = max(p.value for p in points) - min(p.value for p in points)
        start, end = brief(ends[0].value, span), brief(ends[-1].value, span)
        made.append(Panel(key, heading, start, end, bool(smooth), chart))
    return made


def series(rows: Iterable[Mapping[str, Any]], key: str) -> list[Point]:
    """The key's values by step, in order; of rows that repeat a step, as after a restart, the last one holds."""
    found: dict[float, Point] = {}
    for row in rows:
        step, value = _finite(row.get("step")), _finite(row.get(key))
        if step is not None and value is not None:
            spread = _finite(row.get(f"{key}_std"))
            found[step] = Point(step, value, None if spread is None else abs(spread))
    return [found[step] for step in sorted(found)]


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most ``most`` points: means of equal runs of neighbours, so that no spike decides what is drawn."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    return [_mean(points[i : i + size]) for i in range(0, len(points), size)]


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Centred means of up to ``window`` values, over fewer at the ends."""
    half = window // 2
    return [
        Point(p.step, math.fsum(q.value for q in near) / len(near))
        for i, p in enumerate(points)
        for near in [points[max(0, i - half) : i + half + 1]]
    ]


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The keys to draw with their headings: the total first, then the terms, then what is watched."""
    present, known = {key for row in rows for key in row}, list(METRICS)
    terms = sorted(
        {
            key
            for key in present
            # Deeper keys such as reward/judge/abstained are counts, not rewards.
            if key.startswith("reward/") and key.count("/") == 1 and key != "reward/total" and not key.endswith("_std")
        },
        key=lambda key: (known.index(name) if (name := key.removeprefix("reward/")) in known else len(known), key),
    )
    total, *watched = [(key, heading) for key, heading in _NAMED if f"reward/{key}" not in terms]
    chosen = [total, *((key, metric(key.removeprefix("reward/")).label) for key in terms), *watched]
    return [(key, heading) for key, heading in chosen if key in present]


def _mean(points: Sequence[Point]) -> Point:
    n = len(points)
    spreads = [p.spread for p in points if p.spread is not None]
    return Point(
        math.fsum(p.step for p in points) / n,
        math.fsum(p.value for p in points) / n,
        math.fsum(spreads) / len(spreads) if spreads else None,
    )


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None

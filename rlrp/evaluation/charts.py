"""The report's drawings: inline SVG, coloured by the page's style sheet, each with a title and a description."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from rlrp.evaluation.metrics import Direction, Verdict
from rlrp.evaluation.statistics import Interval
from rlrp.evaluation.text import shown

WIDTH, HEIGHT = 340, 176
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 24
_FOREST_WIDTH, _FOREST_HEIGHT = 176, 26
_HOVER_LIMIT = 150


@dataclass(frozen=True)
class Point:
    """One step of a curve; ``spread`` is half the height of the band, None where there is none."""

    step: float
    value: float
    spread: float | None = None


def line_chart(
    points: Sequence[Point],
    *,
    title: str,
    smooth: Sequence[Point] = (),
    limit: float | None = None,
    limit_label: str = "",
) -> Markup:
    """A curve over steps with its band.

    Args:
        points: in order of step, at least one, all finite.
        title: what is drawn; the description adds its first, last, least and greatest value.
        smooth: a running mean drawn on top, the points then being faint.
        limit: a horizontal line, such as a target.
        limit_label: what the line is.
    """
    lows = [p.value - (p.spread or 0) for p in points]
    highs = [p.value + (p.spread or 0) for p in points]
    if limit is not None:
        lows, highs = [*lows, limit], [*highs, limit]
    steps = [p.step for p in points]
    x = _Scale(min(steps), max(steps), _LEFT, WIDTH - _RIGHT)
    pad = (max(highs) - min(lows)) * 0.06 or abs(max(highs)) * 0.1 or 1.0
    y = _Scale(min(lows) - pad, max(highs) + pad, HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x, y, ticks(x.low, x.high, 5), ticks(y.low, y.high, 5))]
    if any(p.spread for p in points):
        parts.append(_band(points, x, y))
    if limit is not None:
        parts.append(_limit(limit, limit_label, y))
    parts.append(_polyline(points, x, y, "curve faint" if smooth else "curve"))
    if smooth:
        parts.append(_polyline(smooth, x, y, "curve"))
    last = (smooth or points)[-1]
    parts.append(f'<circle class="end" cx="{x(last.step):.1f}" cy="{y(last.value):.1f}" r="3"/>')
    if len(points) <= _HOVER_LIMIT:
        parts += [_hover(p, x, y) for p in points]
    values = [p.value for p in points]
    description = (
        f"{len(points)} points from step {steps[0]:g} to {steps[-1]:g}: first {brief(values[0])}, last "
        f"{brief(values[-1])}, least {brief(min(values))}, greatest {brief(max(values))}."
    )
    return _svg(WIDTH, HEIGHT, "chart", title, description, parts)


def forest(interval: Interval, better: Direction, outcome: Verdict, *, title: str) -> Markup:
    """One difference as a dot on its interval, 0 in the middle and better to the right, on a scale of its own."""
    low, high = interval.low, interval.high
    delta = interval.delta or 0.0
    ends = [abs(v) for v in (delta, low, high) if v is not None]
    span = max([*ends, 1e-12]) * 1.12
    sign = 1 if better == "higher" else -1
    middle, half = _FOREST_WIDTH / 2, _FOREST_WIDTH / 2 - 6
    y = _FOREST_HEIGHT / 2

    def at(value: float) -> float:
        return middle + sign * value / span * half

    parts = [f'<line class="zero" x1="{middle:.1f}" x2="{middle:.1f}" y1="0" y2="{_FOREST_HEIGHT}"/>']
    description = "no difference to show"
    if interval.delta is not None:
        if low is not None and high is not None:
            left, right = sorted((at(low), at(high)))
            parts.append(f'<rect class="range" x="{left:.1f}" y="{y - 3:.1f}" width="{max(right - left, 1):.1f}" '
                         f'height="6" rx="3"/>')  # fmt: skip
        parts.append(f'<circle class="dot" cx="{at(delta):.1f}" cy="{y:.1f}" r="4.5"/>')
        description = f"difference {delta:+.4g}"
        if low is not None and high is not None:
            description += f", 95% interval {low:+.4g} to {high:+.4g}"
    return _svg(_FOREST_WIDTH, _FOREST_HEIGHT, f"forest {outcome}", title, description, parts)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About ``wanted`` round numbers (1, 2 or 5 times a power of ten) within ``low`` and ``high``."""
    if not low < high:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def brief(value: float, span: float | None = None) -> str:
    """A number short enough for an axis: three digits, thousands as ``12k``.

    ``span`` is the range it stands in: digits that are small against the range are not written.
    """
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    if span:
        decimals = min(6, max(0, 2 - math.floor(math.log10(span)) - 1))
        return f"{round(value, decimals) + 0.0:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


@dataclass(frozen=True)
class _Scale:
    """Linear map from values to pixels; a single value lands in the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if self.high <= self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _axes(x: _Scale, y: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    parts = [f'<text class="tick" x="{_LEFT}" y="{HEIGHT - 7}" text-anchor="middle">step</text>']
    for tick in y_ticks:
        at = y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{_axis(tick)}</text>')
    # Ticks under the word would run into it.
    for tick in (t for t in x_ticks if x(t) > _LEFT + 34):
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - 7}" text-anchor="middle">{_axis(tick)}</text>')
    return "".join(parts)


def _axis(value: float) -> str:
    return brief(value).replace("-", "−")


def _band(points: Sequence[Point], x: _Scale, y: _Scale) -> str:
    """The band as one polygon a stretch of points that have a spread."""
    polygons = []
    stretch: list[Point] = []
    for point in [*points, Point(0, 0)]:
        if point.spread is not None:
            stretch.append(point)
            continue
        if len(stretch) > 1:
            top = [f"{x(p.step):.1f},{y(p.value + (p.spread or 0)):.1f}" for p in stretch]
            bottom = [f"{x(p.step):.1f},{y(p.value - (p.spread or 0)):.1f}" for p in reversed(stretch)]
            polygons.append(f'<polygon class="band" points="{" ".join(top + bottom)}"/>')
        stretch = []
    return "".join(polygons)


def _limit(value: float, text: str, y: _Scale) -> str:
    at = y(value)
    above = at - 5 if at > _TOP + 14 else at + 13
    return (
        f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="tick limit-label" x="{_LEFT + 4}" y="{above:.1f}">{escape(shown(text))}</text>'
    )


def _polyline(points: Sequence[Point], x: _Scale, y: _Scale, style: str) -> str:
    path = " ".join(f"{x(p.step):.1f},{y(p.value):.1f}" for p in points)
    return f'<polyline class="{style}" points="{path}"/>'


def _hover(point: Point, x: _Scale, y: _Scale) -> str:
    spread = "" if point.spread is None else f" ± {brief(point.spread)}"
    return (
        f'<circle class="hover" cx="{x(point.step):.1f}" cy="{y(point.value):.1f}" r="5">'
        f"<title>step {point.step:g}: {brief(point.value)}{spread}</title></circle>"
    )


def _svg(width: float, height: float, style: str, title: str, description: str, parts: Sequence[str]) -> Markup:
    name = escape(shown(title))
    # The parts hold numbers and text escaped above, nothing else.
    return Markup(
        f'<svg class="{style}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{name}. {escape(description)}"><title>{name}</title><desc>{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )

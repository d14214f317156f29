"""What each metric is called, which way is better, and how its numbers are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlrp.evaluation.statistics import Interval, Transform

Direction = Literal["higher", "lower"]
Verdict = Literal["better", "worse", "unclear", "none", "neutral"]
_MAX_DECIMALS = 6


@dataclass(frozen=True)
class Metric:
    """One metric of the comparison.

    Args:
        name: the key in files.
        label: what a table calls it.
        note: what is measured, for a reader who has not seen the code.
        better: the direction, where the evaluation does not say.
        unit: what one unit of the bootstrap is.
        style: ``score`` (three decimals), ``percent`` (of a value in 0..1), ``plain`` (two).
        transform: from the mean over units to the metric.
        descriptive: neither direction is good in itself, so no verdict is given.
    """

    name: str
    label: str
    note: str
    better: Direction = "higher"
    unit: str = "cards"
    style: Literal["score", "percent", "plain"] = "score"
    transform: Transform | None = None
    descriptive: bool = False


_KNOWN = (
    Metric("composite", "Composite reward", "weighted sum of the terms"),
    Metric("in_character", "In character", "trained classifier of staying in role"),
    Metric("dissonance", "Dissonance", "substitution score; higher is better"),
    Metric("blacklist", "Blacklist", "penalty for listed phrases; 0 is clean"),
    Metric("judge", "Judge", "never optimised in training"),
    Metric("over_cooperation", "Over-cooperation", "granted what the role should refuse", "lower"),
    Metric("general_exact", "General, exact match", "general questions answered right", "higher", "items", "percent"),
    Metric("general_perplexity", "General, perplexity", "on general text", "lower", "paragraphs", "plain", np.exp),
    Metric("kl", "KL", "mean divergence from the reference policy", "lower", descriptive=True),
    Metric("reply_tokens", "Reply length", "tokens per reply", "higher", "cards", "plain", descriptive=True),
    Metric("blacklist_hits", "Blacklist hits", "listed phrases per 100 replies", "lower", "cards", "plain"),
    Metric("length", "Length", "penalty outside the band, or broken off; 0 is clean"),
    Metric("repetition", "Repetition", "penalty for saying it again; 0 is clean"),
    Metric("speaks_for_user", "Speaks for user", "penalty for playing the user's part; 0 is clean"),
)
METRICS = {metric.name: metric for metric in _KNOWN}
# The names that comparison.json promises; what comes after them is ours on top.
CONTRACT = tuple(METRICS)[: tuple(METRICS).index("blacklist_hits")]


def metric(name: str) -> Metric:
    """The metric of that name; a user's own gets a plain description."""
    return METRICS.get(name) or Metric(name, name.replace("_", " ").strip().capitalize() or name, "", unit="units")


def verdict(interval: Interval, better: Direction, descriptive: bool = False) -> Verdict:
    """``better`` or ``worse`` only where the whole interval lies on that side of 0."""
    if descriptive:
        return "neutral"
    if interval.low is None or interval.high is None:
        return "none"
    low, high = (interval.low, interval.high) if better == "higher" else (-interval.high, -interval.low)
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


VERDICT_WORDS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "unclear": "no clear change",
    "none": "no interval",
    "neutral": "not judged",
}


def number(name: str, value: float | None, *, signed: bool = False) -> str:
    """A metric's value as text, ``-`` for None; percent metrics come as percent, their differences as bare points."""
    if value is None:
        return "-"
    style = metric(name).style
    scaled = value * 100 if style == "percent" else value
    decimals = {"score": 3, "percent": 1, "plain": 2}[style]
    # The end of an interval must not round to 0: which side of 0 it is on decides the verdict.
    while signed and scaled != 0 and round(scaled, decimals) == 0 and decimals < _MAX_DECIMALS:
        decimals += 1
    rounded = round(scaled, decimals) + 0.0  # turns -0.0 into 0.0
    text = f"{rounded:+,.{decimals}f}" if signed and rounded else f"{rounded:,.{decimals}f}"
    return text + ("%" if style == "percent" and not signed else "")


def difference(name: str, interval: Interval) -> str:
    """``+0.120 [+0.031, +0.204]``; without the brackets where there is no interval."""
    text = number(name, interval.delta, signed=True)
    if interval.low is not None and interval.high is not None:
        text += f" [{number(name, interval.low, signed=True)}, {number(name, interval.high, signed=True)}]"
    return f"{text} pt" if metric(name).style == "percent" and interval.delta is not None else text

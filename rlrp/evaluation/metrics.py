"""What each metric is called, which way is better, and how its numbers are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlrp.evaluation.statistics import Interval, Transform

Direction = Literal["higher", "lower"]
Verdict = Literal["better", "worse", "unclear", "none", "neutral"]


@dataclass(frozen=True)
class Metric:
    """One metric of the comparison.

    Args:
        name: the key in files.
        label: what a table calls it.
        note: what is measured, for a reader who has not seen the code.
        better: the direction, where the evaluation does not say.
        unit: what one unit of the bootstrap is.
        style: ``score`` (three decimals), ``percent`` (of a value in 0..1), ``plain`` (two decimals).
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
    Metric("composite", "Composite reward", "the weighted sum of the terms that training optimised"),
    Metric("in_character", "In character", "the trained classifier's score of staying in the role"),
    Metric("dissonance", "Dissonance", "substitution score as a reward: higher is less dissonant"),
    Metric("blacklist", "Blacklist", "penalty for phrases no character says; 0 is clean, higher is better"),
    Metric("judge", "Judge", "a judge that training never optimised"),
    Metric("over_cooperation", "Over-cooperation", "share granted of requests the character should refuse", "lower"),
    Metric("general_exact", "General, exact match", "general questions answered exactly right", "higher", "items",
           "percent"),
    Metric("general_perplexity", "General, perplexity", "exp of the mean nats per token on general text", "lower",
           "paragraphs", "plain", np.exp),
    Metric("kl", "KL", "divergence from the reference policy; a distance, not a goal", "lower", descriptive=True),
    Metric("reply_tokens", "Reply length", "tokens per reply", "higher", "cards", "plain", descriptive=True),
    Metric("blacklist_hits", "Blacklist hits", "phrases found per 100 replies", "lower", "cards", "plain"),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _KNOWN}
# The names that comparison.json promises; blacklist_hits is ours on top.
CONTRACT = tuple(metric.name for metric in _KNOWN if metric.name != "blacklist_hits")


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
    "neutral": "not a goal",
}


def number(name: str, value: float | None, *, signed: bool = False) -> str:
    """A metric's value as text, ``-`` for None; percent metrics come as percent, their differences as points."""
    if value is None:
        return "-"
    style = metric(name).style
    decimals = {"score": 3, "percent": 1, "plain": 2}[style]
    scaled = round(value * 100 if style == "percent" else value, decimals) + 0.0  # + 0.0 turns -0.0 into 0.0
    text = f"{scaled:+,.{decimals}f}" if signed else f"{scaled:,.{decimals}f}"
    return text + ("%" if style == "percent" and not signed else "")


def difference(name: str, interval: Interval) -> str:
    """``+0.120 [+0.031, +0.204]``; without the brackets where there is no interval."""
    delta = number(name, interval.delta, signed=True)
    if interval.low is None or interval.high is None:
        return delta
    return f"{delta} [{number(name, interval.low, signed=True)}, {number(name, interval.high, signed=True)}]"

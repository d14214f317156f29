"""How many replies a second each term judges."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from reward.composite import CompositeReward
from rlrp.dialogue.types import Sample

_REPEATS = 3


def measure_speed(composite: CompositeReward, samples: Sequence[Sample]) -> dict[str, Any]:
    """Replies a second of every term and of all together; the best of three, after one that fills the caches."""
    found: dict[str, Any] = {"replies": len(samples), "per_second": {}}
    for term, _, _ in composite.terms:
        found["per_second"][term.name] = round(len(samples) / _seconds(lambda term=term: term.score(samples)))
    found["per_second"]["total"] = round(len(samples) / _seconds(lambda: composite.score_one_by_one(samples)))
    return found


def _seconds(work: Any) -> float:
    work()
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best

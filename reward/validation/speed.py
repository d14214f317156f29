"""How many replies a second each term judges."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from reward.composite import CompositeReward
from reward.config import load_reward
from rlrp.dialogue.types import Sample

_REPEATS = 3
_LONG = 10.0
"""Seconds; caches hardly matter to what takes so long."""
_SHARED = ("dissonance", "blacklist")
"""Terms of rules alone, which reward actors run side by side: they are timed on all cores too."""


def measure_speed(composite: CompositeReward, samples: Sequence[Sample], reward: Path | None = None) -> dict[str, Any]:
    """Replies a second of every term and of all together; the best of three, after one that fills the caches.

    Args:
        reward: the file of the composite; with it the rules are also timed in as many processes as there are cores.

    Returns:
        ``replies``, ``per_second`` by term in this process, ``processes``, ``on_all_cores`` by term.
    """
    found: dict[str, Any] = {"replies": len(samples), "per_second": {}, "processes": os.cpu_count() or 1}
    for term, _, _ in composite.terms:
        found["per_second"][term.name] = round(len(samples) / _seconds(_scored(term.score, samples)))
    found["per_second"]["total"] = round(len(samples) / _seconds(_scored(composite.score_one_by_one, samples)))
    names = [term.name for term, _, _ in composite.terms if term.name in _SHARED]
    found["on_all_cores"] = {}
    if reward is not None:
        with ProcessPoolExecutor(found["processes"], mp_context=multiprocessing.get_context("spawn")) as pool:
            for name in names:
                own = [(str(reward), name, samples)] * found["processes"]
                rates = list(pool.map(_rate_of, *zip(*own, strict=True)))
                found["on_all_cores"][name] = round(sum(rates))
    return found


@cache
def _terms(reward: str) -> dict[str, Any]:
    return {term.name: term for term, _, _ in load_reward(reward).terms}


def _rate_of(reward: str, name: str, samples: Sequence[Sample]) -> float:
    """Replies a second of one process beside the others."""
    return len(samples) / _seconds(_scored(_terms(reward)[name].score, samples))


def _scored(score: Callable[[Sequence[Sample]], Any], samples: Sequence[Sample]) -> Callable[[], Any]:
    return lambda: score(samples)


def _seconds(work: Callable[[], Any]) -> float:
    """The best of some repetitions after one that fills the caches; what takes long is not done again."""
    best = float("inf")
    for repeat in range(_REPEATS + 1):
        started = time.perf_counter()
        work()
        taken = time.perf_counter() - started
        best = min(best, taken) if repeat > 1 else taken
        if taken > _LONG:
            break
    return best

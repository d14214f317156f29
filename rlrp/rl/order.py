"""The order in which a run goes through its data: a function of the seed alone, so a resumed run goes on in it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

USER_PROMPTS, CARDS, GENERAL, MINIBATCHES = range(4)
"""Streams: each kind of data has an order of its own."""


def shuffled(draw: int, count: int, *, seed: int, stream: int) -> int:
    """Which of ``count`` items the draw number ``draw`` takes: every item once per epoch, each epoch in a new order."""
    epoch, place = divmod(draw, count)
    return int(np.random.default_rng([seed, stream, epoch]).permutation(count)[place])


def minibatches(count: int, parts: int, *, seed: int, step: int, epoch: int) -> list[list[int]]:
    """``count`` groups in ``parts`` parts for one pass over a step, of about equal size; one part keeps the order."""
    order = list(range(count))
    if parts > 1:
        order = [int(i) for i in np.random.default_rng([seed, MINIBATCHES, step, epoch]).permutation(count)]
    bounds = [part * count // parts for part in range(parts + 1)]
    return [order[low:high] for low, high in pairwise(bounds) if high > low]

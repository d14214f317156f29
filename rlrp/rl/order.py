"""The order in which a run goes through its data: a function of the seed alone, so a resumed run goes on in it."""

from __future__ import annotations

import numpy as np

USER_PROMPTS, CARDS, GENERAL = range(3)
"""Streams: each kind of data has an order of its own."""


def shuffled(draw: int, count: int, *, seed: int, stream: int) -> int:
    """Which of ``count`` items the draw number ``draw`` takes: every item once per epoch, each epoch in a new order."""
    epoch, place = divmod(draw, count)
    return int(np.random.default_rng([seed, stream, epoch]).permutation(count)[place])

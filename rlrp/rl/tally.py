"""What a step logs: sums over micro-batches, updates and workers, so that it does not depend on the split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RANGED = ("ratio", "sampler_ratio", "logp_gap")
"""Logged with their least and greatest value, before any clipping."""


class Tally:
    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int, float, float]] = {}

    @torch.no_grad()
    def add(self, name: str, values: Tensor) -> None:
        if values.numel():
            self._add(name, (float(values.double().sum()), values.numel(), float(values.min()), float(values.max())))

    def _add(self, name: str, sums: tuple[float, int, float, float]) -> None:
        total, count, low, high = self.sums.get(name, (0.0, 0, float("inf"), float("-inf")))
        self.sums[name] = total + sums[0], count + sums[1], min(low, sums[2]), max(high, sums[3])

    @classmethod
    def merged(cls, tallies: Sequence[Tally]) -> Tally:
        """Those of several workers as one."""
        if len(tallies) == 1:
            return tallies[0]
        out = cls()
        for tally in tallies:
            for name, sums in tally.sums.items():
                out._add(name, sums)
        return out

    def mean(self, name: str) -> float:
        total, count, *_ = self.sums.get(name, (0.0, 0))
        return total / count if count else 0.0

    def metrics(self) -> dict[str, float]:
        out: dict[str, float] = {}
        for name, (_, _, low, high) in self.sums.items():
            out[name] = self.mean(name)
            if name in RANGED:
                out[f"{name}_min"], out[f"{name}_max"] = low, high
        return out

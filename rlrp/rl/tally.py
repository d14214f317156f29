"""What a step logs: sums over micro-batches and updates, so that it does not depend on how the batch was split."""

from __future__ import annotations

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
            total, count, low, high = self.sums.get(name, (0.0, 0, float("inf"), float("-inf")))
            self.sums[name] = (
                total + float(values.double().sum()),
                count + values.numel(),
                min(low, float(values.min())),
                max(high, float(values.max())),
            )

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

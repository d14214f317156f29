"""What a step's micro-batches add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Tally:
    """Sums over micro-batches and workers, so that what is logged does not depend on the split."""

    loss: float = 0.0
    kl: dict[tuple[int, int], float] = field(default_factory=dict)
    """Mean KL to the anchor, in nats a token, by (group, completion)."""
    sums: dict[str, tuple[float, int, float, float]] = field(default_factory=dict)
    """By name: sum, count, smallest, largest."""

    def add(self, name: str, values: Tensor) -> None:
        if values.numel():
            sums = float(values.double().sum()), values.numel(), float(values.min()), float(values.max())
            self._add(name, sums)

    def _add(self, name: str, sums: tuple[float, int, float, float]) -> None:
        total, count, low, high = self.sums.get(name, (0.0, 0, float("inf"), float("-inf")))
        self.sums[name] = total + sums[0], count + sums[1], min(low, sums[2]), max(high, sums[3])

    @classmethod
    def merged(cls, tallies: Sequence[Tally]) -> Tally:
        """Those of all workers as one."""
        first, *others = tallies
        for other in others:
            first.loss += other.loss
            first.kl |= other.kl
            for name, sums in other.sums.items():
                first._add(name, sums)
        return first

    def mean(self, name: str) -> float:
        total, count, *_ = self.sums.get(name, (0.0, 0))
        return total / count if count else 0.0

    def metrics(self) -> dict[str, Any]:
        out: dict[str, Any] = {"loss": self.loss}
        for name, (_, count, low, high) in self.sums.items():
            out[name] = self.mean(name)
            if name in ("ratio", "logp_gap"):
                out[f"{name}_min"], out[f"{name}_max"] = low, high
            if name == "ratio":
                out["reply_tokens_total"] = float(count)
        return out

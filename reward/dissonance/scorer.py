"""What a language model says of a reply's registers, as the score sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlrp.dialogue.types import Sample


@dataclass(frozen=True)
class Registers:
    """Nats a token: ``ratio`` (R), log p as speech less log p as a text about somebody; ``tolerance`` (S), how much
    better the text about somebody takes the name for "I". None where there is no token to say it of. ``tokens`` is R's
    count."""

    ratio: float | None
    tolerance: float | None = None
    tokens: int = 0


class Scorer(Protocol):
    """Reads replies; :class:`reward.dissonance.neural.NeuralScorer` is one."""

    def read(self, samples: Sequence[Sample]) -> list[Registers | None]:
        """One a sample, in order; None for a reply without speech."""
        ...

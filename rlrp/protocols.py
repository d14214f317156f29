"""The seam between the training loop and the rewards: neither imports the other, both import this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlrp.dialogue.types import Sample


@dataclass(frozen=True)
class TermScore:
    """One term's opinion of one sample.

    Args:
        value: a reward, higher is better; None means the term abstains (it has no evidence), which is not 0.
        reasons: short lines a person can read, e.g. ``'blacklist: "as an ai" (ai_identity)'``.
        parts: the numbers the value was made of, for the log.
        spans: what the reasons are about, as (start, end) in the reply.
    """

    value: float | None
    reasons: tuple[str, ...] = ()
    parts: dict[str, float] = field(default_factory=dict)
    spans: tuple[tuple[int, int], ...] = ()


class RewardTerm(Protocol):
    """One reward term. A user's own term is named ``module:Class`` in YAML."""

    name: str

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order. Raising stops the training step; None as value abstains."""
        ...


@dataclass(frozen=True)
class Judgement:
    """The composite's verdict on one sample: the total and every term it was made of."""

    total: float
    terms: dict[str, float | None]
    reasons: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    spans: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)


class Reward(Protocol):
    """What the training loop needs of a composite reward."""

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        """Judge groups of samples. Those of a group share the card and, unless they are replies of conversations, the
        messages."""
        ...


class Totals(Protocol):
    """Makes the totals of judgements that several rewards gave, and may remember what it has seen."""

    def combine(
        self, groups: Sequence[Sequence[Sample]], judgements: Sequence[Sequence[Judgement]]
    ) -> list[list[Judgement]]:
        """The judgements with totals made from their terms."""
        ...

    def weights(self) -> dict[str, float]:
        """Each term's weight in the total; 0 for one that is only logged."""
        ...

    def state(self) -> dict[str, Any]:
        """What it remembers, as plain JSON, for a checkpoint."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state``; an empty mapping starts afresh."""
        ...

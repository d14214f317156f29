"""A step's groups as the learner walks over them: packs within the token budget, and per completion what was found out.

Shapes: B completions of a batch, S tokens that the policy said in them end to end, C hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rlrp.lm.scoring import TokenGroup
from rlrp.rl.shares import MicroBatch, shares
from rlrp.rl.trained import IDLE

Rewards = tuple[tuple[int, float], ...]
"""What a completion was paid: (token index, reward) pairs. Most are paid once, at the last token."""


@dataclass(frozen=True)
class TrainGroup:
    """A prompt and its completions with the sampler's log-probabilities and the advantages.

    ``spoken`` says per completion and token whether the policy said it; empty: all. Only those are trained on, counted
    and logged, the others (a simulated user's) are read.
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    logps: tuple[tuple[float, ...], ...]
    advantages: tuple[float, ...]
    spoken: tuple[tuple[bool, ...], ...] = ()
    rewards: tuple[Rewards, ...] = ()
    """What each completion was paid; needed by a critic and by the KL in the reward, which make advantages of it."""
    character: str = ""
    """Whose prompt it is; needed by the KL in the reward where advantages are scaled by the character."""

    def said(self, completion: int) -> tuple[bool, ...]:
        """Of one completion, token by token."""
        return self.spoken[completion] if self.spoken else (True,) * len(self.completions[completion])


@dataclass(frozen=True)
class Pack:
    """What goes through the model at once: groups or parts of them, whose completions are these rows of the batch."""

    groups: list[TokenGroup]
    rows: list[int]
    lengths: Tensor
    """Tokens said by the policy in each."""
    said: Tensor | None
    """Which of the completions' tokens those are; None: all."""

    def of(self, rows: Sequence[Tensor] | Mapping[int, Tensor], device: torch.device) -> Tensor:
        """The pack's part [S] of something that the batch holds per completion."""
        return torch.cat([rows[row] for row in self.rows]).to(device)

    def only_said(self, values: Tensor) -> Tensor:
        """Of something with a row for every completion token, the rows [S] of those that the policy said."""
        return values if self.said is None else values[self.said.to(values.device)]

    def split(self, values_S: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Row by row, on the CPU."""
        return zip(self.rows, values_S.detach().cpu().split(self.lengths.tolist()), strict=True)

    def keep(self, rows: list[Tensor], values_S: Tensor) -> None:
        """Put the pack's part where the batch holds it; an idle pack has none."""
        if self is not IDLE_PACK:
            for row, values in self.split(values_S):
                rows[row] = values


IDLE_PACK = Pack(IDLE, [0], torch.ones(1, dtype=torch.long), None)
"""For a worker that has nothing left while others have."""


class Batch:
    """A step's groups. Completions are rows, counted through all groups; per row there are tensors over its tokens."""

    def __init__(self, groups: Sequence[TrainGroup]):
        self.groups = list(groups)
        self._first = [0, *accumulate(len(group.completions) for group in groups)]
        self._said = [torch.tensor(g.said(c), dtype=torch.bool) for g in groups for c in range(len(g.completions))]
        self.lengths = torch.tensor([int(said.sum()) for said in self._said], dtype=torch.long)
        """Tokens said by the policy in each completion [B]."""
        logps = [torch.tensor(row, dtype=torch.float32) for group in groups for row in group.logps]
        self.sampler = [row[said] for row, said in zip(logps, self._said, strict=True)]
        """The sampler's log-probabilities."""
        values = [value for group in groups for value in group.advantages]
        # What is beyond float32 becomes infinite, and the loss that it leads to is skipped as such.
        value_B = torch.tensor(values, dtype=torch.float64).float()
        self.advantage = [v.repeat(n) for n, v in zip(self.lengths.tolist(), value_B, strict=True)]
        self.reference = self._empty()
        """The anchor's log-probabilities."""
        self.proximal = self._empty()
        """The policy's own before the first update."""
        self.value = self._empty()
        """The critic's before the first update."""
        self.returns = self._empty()
        """What the critic learns."""
        self.kl = [0.0] * len(self)
        """Mean over each completion's tokens, in nats [B]."""
        self.mean_advantage: list[float] = []
        self.updates = 0
        """Made on it so far."""

    def __len__(self) -> int:
        """Completions."""
        return len(self._said)

    def _empty(self) -> list[Tensor]:
        return [torch.zeros(0)] * len(self)

    def per_row(self, values_S: Tensor) -> list[Tensor]:
        """Something that was made of all the batch's tokens, completion by completion."""
        return list(values_S.split(self.lengths.tolist()))

    def by_group(self, values: Sequence[float]) -> list[list[float]]:
        """A number a completion, group by group; nothing of nothing."""
        return [[values[row] for row in self.rows_of(g)] for g in range(len(self.groups))] if values else []

    def rows_of(self, group: int) -> range:
        return range(self._first[group], self._first[group + 1])

    def rewards(self) -> list[Rewards]:
        """What each completion was paid, at the places of tokens that the policy said: the last before the payment."""
        paid = [row for group in self.groups for row in group.rewards]
        if len(paid) != len(self):
            raise ValueError(f"got rewards for {len(paid)} completions, expected {len(self)}")
        return [
            tuple((max(0, int(said[: at + 1].sum()) - 1), reward) for at, reward in row)
            for row, said in zip(paid, self._said, strict=True)
        ]

    def packs(
        self, members: Sequence[int], token_budget: int, *, share_prefix: bool, workers: int = 1
    ) -> list[list[Pack]]:
        """Every worker's packs of the groups ``members``, of at most ``token_budget`` tokens each."""
        chosen = [self.groups[member] for member in members]
        token_groups = [TokenGroup(group.prompt, group.completions) for group in chosen]
        dealt = shares(token_groups, workers, token_budget, share_prefix=share_prefix)
        packs = [[self._pack(micro_batch, members) for micro_batch in own] for own in dealt]
        return [[pack for pack in own if pack.lengths.any()] for own in packs]

    def _pack(self, micro_batch: MicroBatch, members: Sequence[int]) -> Pack:
        rows = [self._first[members[g]] + c for g, c in micro_batch.places]
        said = torch.cat([self._said[row] for row in rows])
        return Pack(micro_batch.groups, rows, self.lengths[rows], None if said.all() else said)

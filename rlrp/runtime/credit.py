"""From judged groups to what each completion is worth to the learner."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlrp.algorithms import Baseline, Scale
from rlrp.rl.advantages import equal_groups, group_advantages
from rlrp.runtime.groups import Group


def set_advantages(groups: Sequence[Group], scale: Scale, baseline: Baseline = "group") -> None:
    """Advantages from the judgements' totals; groups whose rewards are all equal are marked."""
    reward_PG = torch.tensor([[j.total for j in group.judgements] for group in groups], dtype=torch.float64)
    characters = [group.prompt.card_id for group in groups]
    advantages = group_advantages(reward_PG, baseline=baseline, scale=scale, characters=characters)
    equal = equal_groups(reward_PG)
    for group, row, same in zip(groups, advantages.tolist(), equal.tolist(), strict=True):
        group.advantages, group.equal = row, same

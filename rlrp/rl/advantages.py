"""From judged groups to advantages. Pure functions of tensors.

Shapes: P prompts, G completions per prompt.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Scale = Literal["group", "batch", "none"]

EPSILON = 1e-4
"""Added to the standard deviation, as TRL does."""


def group_advantages(reward_PG: Tensor, *, scale: Scale = "group") -> Tensor:
    """Centre each reward on its group's mean, and scale.

    ``group`` divides by the group's standard deviation (GRPO, arXiv 2402.03300, section 4.1.2), ``batch`` by that of
    all rewards, ``none`` leaves the differences as they are (Dr. GRPO, arXiv 2503.20783). Standard deviations are the
    unbiased ones, as in TRL. A group whose rewards are all equal gets zeros: it carries no signal.
    """
    if reward_PG.ndim != 2:
        raise ValueError(f"reward_PG: got shape {tuple(reward_PG.shape)}, expected [prompts, completions]")
    centred = reward_PG - reward_PG.mean(dim=1, keepdim=True)
    if scale == "none" or reward_PG.shape[1] < 2:
        return centred
    if scale == "batch":
        return centred / (reward_PG.std() + EPSILON)
    return centred / (reward_PG.std(dim=1, keepdim=True) + EPSILON)


def equal_groups(reward_PG: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Which groups [P] have rewards that are all equal, so that they teach nothing."""
    return (reward_PG.max(dim=1).values - reward_PG.min(dim=1).values) <= tolerance

"""Advantages by hand and against the lines of TRL's GRPOTrainer that compute them."""

from __future__ import annotations

import inspect
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.rl.advantages import equal_groups, group_advantages


def test_by_hand() -> None:
    # Means 2 and 5; unbiased standard deviations sqrt((1 + 0 + 1) / 2) = 1 and sqrt((9 + 0 + 9) / 2) = 3.
    reward_PG = torch.tensor([[1.0, 2.0, 3.0], [2.0, 5.0, 8.0]], dtype=torch.float64)
    centred = torch.tensor([[-1.0, 0.0, 1.0], [-3.0, 0.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(reward_PG, scale="none"), centred)
    deviation = torch.tensor([[1.0001], [3.0001]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(reward_PG, scale="group"), centred / deviation)
    # All rewards: mean 3.5, squared distances 6.25 + 2.25 + 0.25 + 2.25 + 2.25 + 20.25 = 33.5; / 5 = 6.7.
    torch.testing.assert_close(group_advantages(reward_PG, scale="batch"), centred / (6.7**0.5 + 1e-4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_teach_nothing(scale: Any) -> None:
    reward_PG = torch.tensor([[0.3, 0.3, 0.3], [0.1, 0.2, 0.6]], dtype=torch.float64)
    advantages = group_advantages(reward_PG, scale=scale)
    assert advantages[0].abs().max() < 1e-9
    assert advantages[1].abs().max() > 0.1
    assert equal_groups(reward_PG).tolist() == [True, False]
    assert group_advantages(torch.tensor([[0.7], [0.2]]), scale=scale).tolist() == [[0.0], [0.0]]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        group_advantages(torch.zeros(3))


def trl_advantages(reward_PG: torch.Tensor, scale: str) -> torch.Tensor:
    """Runs TRL's own lines: the branch of ``_generate_and_score_completions`` for one summed reward."""
    from trl.trainer import grpo_trainer

    source = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    begin = source.index('        if self.multi_objective_aggregation == "sum_then_normalize":')
    end = source.index('        elif self.multi_objective_aggregation == "normalize_then_sum":')
    flat = reward_PG.reshape(-1, 1)
    names = {
        "self": SimpleNamespace(
            multi_objective_aggregation="sum_then_normalize", scale_rewards=scale, reward_weights=torch.ones(1)
        ),
        "rewards_per_func": flat,
        "unscorable_mask": torch.zeros(len(flat), dtype=torch.bool),
        "num_generations": reward_PG.shape[1],
        "device": "cpu",
    }
    namespace = vars(grpo_trainer) | names
    exec(textwrap.dedent(source[begin:end]), namespace)
    return namespace["advantages"].view_as(reward_PG)


@settings(max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(2, 6),
    st.sampled_from(["group", "batch", "none"]),
    st.sampled_from([1e-4, 1.0, 50.0]),
    st.integers(0, 10**6),
)
def test_equal_to_trls(prompts: int, completions: int, scale: Any, spread: float, seed: int) -> None:
    torch.manual_seed(seed)
    reward_PG = torch.randn(prompts, completions, dtype=torch.float64) * spread  # as the loop computes them
    reward_PG[0] = reward_PG[0, 0]  # a group without signal is in every batch
    ours, theirs = group_advantages(reward_PG, scale=scale), trl_advantages(reward_PG, scale)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)

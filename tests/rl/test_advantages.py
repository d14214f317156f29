"""Advantages by hand and against the lines of TRL's GRPO and RLOO trainers that compute them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.rl.advantages import equal_groups, group_advantages, overlong, term_advantages, whiten

from .trl_lines import trl_lines


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


def test_leave_one_out_by_hand() -> None:
    # The others' means: 2.5, 2, 1.5.
    reward_PG = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    expected = torch.tensor([[-1.5, 0.0, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(reward_PG, baseline="leave_one_out", scale="none"), expected)


def test_whitened_by_hand() -> None:
    # REINFORCE++: mean 3, squared distances 4 + 0 + 0 + 4, deviation sqrt(8 / 3).
    reward_PG = torch.tensor([[1.0, 3.0], [3.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([[-2.0, 0.0], [0.0, 2.0]], dtype=torch.float64) / ((8 / 3) ** 0.5 + 1e-4)
    torch.testing.assert_close(group_advantages(reward_PG, baseline="none", scale="whiten"), expected)
    # With the group's mean as baseline: -1, 1, -1, 1; deviation sqrt(4 / 3), not that of the rewards.
    expected = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) / ((4 / 3) ** 0.5 + 1e-4)
    torch.testing.assert_close(group_advantages(reward_PG, baseline="group", scale="whiten"), expected)


def test_per_character_by_hand() -> None:
    # ada's rewards 0, 2, 4, 6: squared distances from 3 are 9 + 1 + 1 + 9 = 20; / 3. bo's 10, 30: 2 * 10 ** 2.
    reward_PG = torch.tensor([[0.0, 2.0], [10.0, 30.0], [4.0, 6.0]], dtype=torch.float64)
    ada, bo = (20 / 3) ** 0.5 + 1e-4, 200**0.5 + 1e-4
    expected = torch.tensor([[-1 / ada, 1 / ada], [-10 / bo, 10 / bo], [-1 / ada, 1 / ada]], dtype=torch.float64)
    ours = group_advantages(reward_PG, scale="character", characters=["ada", "bo", "ada"])
    torch.testing.assert_close(ours, expected)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_one_character_is_the_batch_and_one_each_is_the_group(prompts: int, completions: int, seed: int) -> None:
    reward_PG = torch.randn(prompts, completions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    same = group_advantages(reward_PG, scale="character", characters=["ada"] * prompts)
    each = group_advantages(reward_PG, scale="character", characters=[str(i) for i in range(prompts)])
    torch.testing.assert_close(same, group_advantages(reward_PG, scale="batch"))
    torch.testing.assert_close(each, group_advantages(reward_PG, scale="group"))


BASELINES: Any = st.sampled_from(["group", "leave_one_out", "none"])
SCALES: Any = st.sampled_from(["group", "batch", "character", "whiten", "none"])


@given(st.integers(1, 4), st.integers(1, 5), BASELINES, SCALES, st.integers(0, 10**6))
def test_degenerate_groups(prompts: int, completions: int, baseline: Any, scale: Any, seed: int) -> None:
    """Always finite; equal rewards, and groups of one, teach nothing once a group's baseline is taken away."""
    reward_PG = torch.randn(prompts, completions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    reward_PG[0] = reward_PG[0, 0]
    who = ["ada", "bo", "ada", "cy"][:prompts]
    ours = group_advantages(reward_PG, baseline=baseline, scale=scale, characters=who)
    assert ours.shape == reward_PG.shape
    assert ours.isfinite().all()
    if baseline != "none":
        # Whitening takes a mean away that the baseline has made 0 but for rounding.
        assert ours[0].abs().max() < 1e-9
        assert completions > 1 or ours.abs().max() < 1e-9
    if scale == "whiten":
        assert float(ours.mean()) == pytest.approx(0, abs=1e-9)
        alone = group_advantages(torch.ones(1, 1), baseline=baseline, scale=scale)
        equal = group_advantages(torch.full((2, 2), 0.7), baseline=baseline, scale=scale)
        assert alone.abs().max() == 0 and equal.abs().max() < 1e-3


def test_characters_are_checked() -> None:
    for characters in (None, ["ada"]):
        with pytest.raises(ValueError, match="expected one for 2 prompts"):
            group_advantages(torch.zeros(2, 2), scale="character", characters=characters)


# -- overlong completions ------------------------------------------------------------------------------------------


def test_overlong_by_hand() -> None:
    # Up to 60 tokens nothing; 70 of 60 to 100 is a quarter of the way; from 100 on all of it.
    lengths = torch.tensor([0.0, 60.0, 70.0, 90.0, 100.0, 120.0])
    assert overlong(lengths, longest=100, buffer=40).tolist() == [0.0, 0.0, -0.25, -0.75, -1.0, -1.0]


@given(st.lists(st.integers(0, 80), min_size=1, max_size=9), st.integers(1, 60))
def test_overlong_is_equal_to_trls(lengths: list[int], buffer: int) -> None:
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(60, buffer)([[0] * length for length in lengths])
    ours = overlong(torch.tensor(lengths, dtype=torch.float64), longest=60, buffer=buffer)
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_terms_are_not_a_scale_of_their_sum() -> None:
    with pytest.raises(ValueError, match="term_advantages"):
        group_advantages(torch.zeros(1, 2), scale="terms")


# -- per term ------------------------------------------------------------------------------------------------------


def test_terms_by_hand() -> None:
    """The large term does not drown the small one, and what abstains neither pays nor costs."""
    terms = torch.tensor([[[100.0, 0.0], [0.0, 1.0], [50.0, float("nan")]]], dtype=torch.float64)
    # Normalised: (1, -1 / sqrt 2), (-1, 1 / sqrt 2), (0, 0): the deviations are 50 and sqrt(1 / 2).
    ours = term_advantages(terms, torch.tensor([1.0, 2.0], dtype=torch.float64))
    one = 50 / (50 + 1e-4) - 2 * 0.5 / (0.5**0.5 + 1e-4)
    expected = torch.tensor([[one, -one, 0.0]], dtype=torch.float64) / (abs(one) + 1e-4)
    torch.testing.assert_close(ours, expected)


def test_terms_that_say_nothing() -> None:
    nan = float("nan")
    # The first term is equal in the group, the second speaks of one completion alone, of the last nobody speaks.
    terms = torch.tensor([[[1.0, nan], [1.0, 4.0], [1.0, nan], [nan, nan]]], dtype=torch.float64)
    assert term_advantages(terms, torch.ones(2, dtype=torch.float64)).tolist() == [[0.0] * 4]
    assert term_advantages(torch.full((2, 2, 1), nan), torch.ones(1)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert term_advantages(torch.ones(1, 1, 1), torch.ones(1)).tolist() == [[0.0]]
    with pytest.raises(ValueError, match=r"expected \[prompts, completions, terms\]"):
        term_advantages(torch.ones(2, 2, 3), torch.ones(2))


def test_whitening_keeps_the_shape() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    # Mean 3, deviation sqrt((4 + 1 + 9) / 2).
    torch.testing.assert_close(whiten(values), torch.tensor([-2.0, -1, 3], dtype=torch.float64) / (7**0.5 + 1e-4))
    assert whiten(values.view(3, 1)).shape == (3, 1)


# -- against TRL ---------------------------------------------------------------------------------------------------


def trl_advantages(reward_PG: torch.Tensor, scale: str) -> torch.Tensor:
    """The branch for one summed reward."""
    from trl import GRPOTrainer

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
    begin, end = 'if self.multi_objective_aggregation == "sum_then_normalize"', "elif self.multi_objective_aggregation"
    return trl_lines(GRPOTrainer, begin, end, names).view_as(reward_PG)


def trl_term_advantages(terms_PGK: torch.Tensor, weights_K: torch.Tensor) -> torch.Tensor:
    from trl import GRPOTrainer

    flat = terms_PGK.flatten(0, 1)
    names = {
        "self": SimpleNamespace(
            multi_objective_aggregation="normalize_then_sum",
            reward_weights=weights_K,
            reward_funcs=[None] * len(weights_K),
        ),
        "rewards_per_func": flat,
        "unscorable_mask": flat.isnan().all(dim=1),
        "num_generations": terms_PGK.shape[1],
        "device": "cpu",
    }
    begin, end = 'if self.multi_objective_aggregation == "sum_then_normalize"', "# Slice to keep only the local part"
    return trl_lines(GRPOTrainer, begin, end, names).view(terms_PGK.shape[:2])


def trl_rloo_advantages(reward_PG: torch.Tensor, normalise: bool) -> torch.Tensor:
    from trl import RLOOTrainer

    names = {
        "self": SimpleNamespace(normalize_advantages=normalise),
        "rewards": reward_PG.flatten(),
        "num_generations": reward_PG.shape[1],
    }
    begin, end = "grouped_rewards = rewards.view(-1, num_generations)", "is_std_zero ="
    return trl_lines(RLOOTrainer, begin, end, names).view_as(reward_PG)


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


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(2, 6), st.booleans(), st.integers(0, 10**6))
def test_leave_one_out_is_equal_to_trls(prompts: int, completions: int, normalise: bool, seed: int) -> None:
    torch.manual_seed(seed)
    reward_PG = torch.randn(prompts, completions, dtype=torch.float64)
    reward_PG[0] = reward_PG[0, 0]
    scale: Any = "whiten" if normalise else "none"
    ours = group_advantages(reward_PG, baseline="leave_one_out", scale=scale)
    torch.testing.assert_close(ours, trl_rloo_advantages(reward_PG, normalise), atol=1e-7, rtol=1e-7)


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 3), st.sampled_from([0.0, 0.3]), st.integers(0, 10**6))
def test_terms_are_equal_to_trls(prompts: int, completions: int, terms: int, silent: float, seed: int) -> None:
    torch.manual_seed(seed)
    terms_PGK = torch.randn(prompts, completions, terms, dtype=torch.float64) * torch.tensor([1.0, 9.0, 0.1])[:terms]
    terms_PGK[torch.rand_like(terms_PGK) < silent] = float("nan")
    weights = torch.rand(terms, dtype=torch.float64)
    ours, theirs = term_advantages(terms_PGK, weights), trl_term_advantages(terms_PGK, weights)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)

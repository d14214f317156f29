"""Advantages that take the KL in the reward: by hand and against REINFORCE++'s and RLOO's formulas written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlrp.rl.advantages import group_advantages
from rlrp.rl.experience import payments, penalised_advantages, reward_to_go
from rlrp.rl.kl import token_rewards


def test_payments_by_hand() -> None:
    # Paid on the way and at the end; beyond the end counts at the end; what said nothing cannot be paid.
    paid = payments([((0, 1.0), (2, 5.0), (2, 0.5)), ((9, 2.0),), ((0, 7.0),), ()], torch.tensor([3, 2, 0, 1]))
    assert paid.tolist() == [1.0, 0.0, 5.5, 0.0, 2.0, 0.0]
    with pytest.raises(ValueError, match="longer"):
        payments([()], torch.tensor([1, 1]))


def test_reward_to_go_by_hand() -> None:
    # Still to come: 4, 1 and 2; mean 7 / 3, squared distances (25 + 16 + 1) / 9, deviation sqrt(21) / 3.
    whitened = reward_to_go(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2, 1]))
    expected = torch.tensor([5.0, -4.0, -1.0]) / 3 / (21**0.5 / 3 + 1e-4)
    torch.testing.assert_close(whitened, expected)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.sampled_from([0.0, 0.1, 2.0]), st.integers(0, 10**6))
def test_reinforce_plus_plus_written_out(lengths: list[int], coef: float, seed: int) -> None:
    """arXiv 2501.03262: A_t = r - coef * sum of k1 from t on, less the mean over all tokens, over their deviation."""
    torch.manual_seed(seed)
    rewards = torch.randn(len(lengths)).tolist()
    logp, ref = torch.randn(2, sum(lengths))
    counts, k1, expected = torch.tensor(lengths), (logp - ref).split(lengths), []
    for reward, own in zip(rewards, k1, strict=True):
        expected += [reward - coef * float(own[t:].sum()) for t in range(len(own))]
    mean = sum(expected) / len(expected)
    deviation = (sum((x - mean) ** 2 for x in expected) / (len(expected) - 1)) ** 0.5
    paid = payments([((n - 1, r),) for n, r in zip(lengths, rewards, strict=True)], counts)
    ours = reward_to_go(token_rewards(paid, logp, ref, coef), counts)
    assert ours.tolist() == pytest.approx([(x - mean) / (deviation + 1e-4) for x in expected], abs=1e-4)


@pytest.mark.parametrize(("baseline", "scale"), [("group", "group"), ("leave_one_out", "none"), ("group", "character")])
def test_penalised_advantages_by_hand(baseline: Any, scale: Any) -> None:
    # k1: 1 and 1 of the first completion, -2 of the second; the third says nothing and has no KL; 0 of the fourth.
    logp, ref = torch.tensor([0.0, 0.0, -3.0, -1.0]), torch.tensor([-1.0, -1.0, -1.0, -1.0])
    lengths, rewards = torch.tensor([2, 1, 0, 1]), [((0, 1.0), (1, 2.0)), ((0, 4.0),), ((0, 5.0),), ((0, 6.0),)]
    ours = penalised_advantages(
        rewards, logp, ref, lengths, 0.5, prompts=2, baseline=baseline, scale=scale, characters=["ada", "ada"]
    )
    # 1 + 2 - 0.5 * 2 = 2 and 4 + 0.5 * 2 = 5; 5 and 6.
    penalised = torch.tensor([[2.0, 5.0], [5.0, 6.0]], dtype=torch.float64)
    (a, b), (_, d) = group_advantages(penalised, baseline=baseline, scale=scale, characters=["ada", "ada"]).tolist()
    assert ours.tolist() == pytest.approx([a, a, b, d])
    assert ours.dtype == torch.float32

"""The loss against TRL's own ``GRPOTrainer._compute_loss``, value and gradient."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.rl.kl import kl_estimate
from rlrp.rl.losses import grpo_loss, token_weights

MAX_TOKENS = 9


def trl_loss(
    logp_BT: torch.Tensor, batch: dict[str, torch.Tensor], *, kind: str, low: float, high: float, beta: float, fix: bool
) -> torch.Tensor:
    """TRL's method, called on the little of a trainer that it looks at; the log-probabilities are handed in."""
    from trl import GRPOTrainer

    accelerator = SimpleNamespace(
        gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1, sync_gradients=True
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp_BT, torch.zeros_like(logp_BT), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=fix, delta=None),
        loss_type=kind,
        epsilon_low=low,
        epsilon_high=high,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_TOKENS,
        accelerator=accelerator,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    return GRPOTrainer._compute_loss(trainer, None, batch)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, MAX_TOKENS), min_size=1, max_size=5),
    kind=st.sampled_from(["grpo", "dr_grpo"]),
    high=st.sampled_from([0.2, 0.28]),
    beta=st.sampled_from([0.0, 0.04, 1.0]),
    fix=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_equal_to_trls(lengths: list[int], kind: Any, high: float, beta: float, fix: bool, seed: int) -> None:
    torch.manual_seed(seed)
    rows, longest = len(lengths), max(lengths)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    logp = -torch.rand(rows, longest, dtype=torch.float64) * 3
    old, reference = (logp + torch.randn_like(logp) * 0.3 for _ in range(2))  # many ratios beyond the clip
    advantage = torch.randn(rows, dtype=torch.float64)
    theirs_leaf, ours_leaf = logp.clone().requires_grad_(), logp.clone().requires_grad_()

    batch = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
        "completion_ids": torch.zeros(rows, longest, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantage,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
    }
    theirs = trl_loss(theirs_leaf, batch, kind=kind, low=0.2, high=high, beta=beta, fix=fix)
    theirs.backward()

    flat = ours_leaf[mask]
    estimator = "k3_unbiased" if fix else "k3"
    out = grpo_loss(
        flat,
        old[mask],
        advantage.repeat_interleave(torch.tensor(lengths)),
        token_weights(torch.tensor(lengths), kind, max_tokens=MAX_TOKENS).double(),
        clip_low=0.2,
        clip_high=high,
        kl_S=kl_estimate(flat, reference[mask], estimator, old_logp=old[mask]),
        kl_coef=beta,
    )
    out.loss.backward()
    torch.testing.assert_close(out.loss, theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours_leaf.grad, theirs_leaf.grad, atol=1e-6, rtol=1e-6)


def test_by_hand_with_both_clips() -> None:
    # Ratios 2 and 1/2 at advantages +1 and -1: the surrogate is min(2, 1.28) = 1.28 and min(-0.5, -0.8) = -0.8.
    logp = torch.tensor([2.0, 0.5]).log().requires_grad_()
    out = grpo_loss(logp, torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5]), clip_high=0.28)
    out.loss.backward()
    assert float(out.loss.detach()) == pytest.approx(-0.5 * (1.28 - 0.8))
    assert logp.grad is not None
    assert logp.grad.tolist() == [0.0, 0.0]  # clipping took both gradients away
    assert out.clipped.tolist() == [True, True]
    assert out.ratio.tolist() == pytest.approx([2.0, 0.5])  # raw, not clipped
    assert not out.ratio.requires_grad


def test_clipping_never_stops_a_step_back() -> None:
    """Ratios on the wrong side of the clip but with the gradient pointing home keep their gradient."""
    logp = torch.tensor([2.0, 0.5]).log().requires_grad_()
    out = grpo_loss(logp, torch.zeros(2), torch.tensor([-1.0, 1.0]), torch.ones(2))
    out.loss.backward()
    # d(-ratio A) / d logp = -ratio A
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([2.0, -0.5])
    assert out.clipped.tolist() == [False, False]


def test_weights_by_hand() -> None:
    lengths = torch.tensor([1, 0, 3])
    # Three completions, the empty one included in B: 1 / 3 and 1 / (3 * 3).
    assert token_weights(lengths, "grpo", max_tokens=8).tolist() == pytest.approx([1 / 3, 1 / 9, 1 / 9, 1 / 9])
    assert token_weights(lengths, "dr_grpo", max_tokens=8).tolist() == pytest.approx([1 / 24] * 4)
    assert token_weights(lengths, "token", max_tokens=8).tolist() == pytest.approx([1 / 4] * 4)
    assert token_weights(torch.tensor([0, 0]), "token", max_tokens=8).tolist() == []


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_weights_sum_to_one_where_they_should(lengths: list[int]) -> None:
    counts = torch.tensor(lengths)
    for aggregate in ("grpo", "token"):
        assert float(token_weights(counts, aggregate, max_tokens=20).sum()) == pytest.approx(1, abs=1e-5)
    share = sum(lengths) / (20 * len(lengths))
    assert float(token_weights(counts, "dr_grpo", max_tokens=20).sum()) == pytest.approx(share, abs=1e-5)

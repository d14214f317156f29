"""KL estimators against autograd on the exact KL, with every token of a small vocabulary enumerated: no sampling."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.rl.advantages import group_advantages
from rlrp.rl.experience import payments
from rlrp.rl.kl import Estimator, KlController, kl_estimate, penalised_rewards, token_rewards

from .trl_lines import trl_lines

vectors = st.integers(0, 10**6).map(lambda seed: torch.randn(3, 7, generator=torch.Generator().manual_seed(seed)))


def policies(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Parameters, the policy's log-probabilities of all tokens, the reference's and an older policy's."""
    theta, reference, shift = logits.double()
    theta = theta.clone().requires_grad_()
    return theta, theta.log_softmax(-1), reference.log_softmax(-1), (theta.detach() + 0.3 * shift).log_softmax(-1)


def expected_gradient(logits: torch.Tensor, estimator: Estimator, drawn_from: str) -> torch.Tensor:
    """The mean over tokens drawn from a fixed distribution of the gradient that a learner would take."""
    theta, logp, ref, old = policies(logits)
    sampler = logp.detach() if drawn_from == "policy" else old
    values = kl_estimate(logp, ref, estimator, old_logp=sampler)
    (gradient,) = torch.autograd.grad((sampler.exp() * values).sum(), theta)
    return gradient


def exact_gradient(logits: torch.Tensor, *, backwards: bool = False) -> torch.Tensor:
    theta, logp, ref, _ = policies(logits)
    kl = (ref.exp() * (ref - logp)).sum() if backwards else (logp.exp() * (logp - ref)).sum()
    (gradient,) = torch.autograd.grad(kl, theta)
    return gradient


@settings(max_examples=30)
@given(vectors)
def test_expected_values(logits: torch.Tensor) -> None:
    _, logp, ref, old = policies(logits)
    p, exact = logp.exp(), (logp.exp() * (logp - ref)).sum()
    for estimator in ("k1", "k3"):
        torch.testing.assert_close((p * kl_estimate(logp, ref, estimator)).sum(), exact)
    for sampler in (logp, old):  # the ratio corrects what an older policy drew
        values = kl_estimate(logp, ref, "k3_unbiased", old_logp=sampler)
        torch.testing.assert_close((sampler.exp() * values).sum(), exact)
    torch.testing.assert_close(kl_estimate(logp, ref, "k2"), (logp - ref) ** 2 / 2)
    assert (kl_estimate(logp, ref, "k3") >= 0).all()


@settings(max_examples=30)
@given(vectors)
def test_expected_gradients(logits: torch.Tensor) -> None:
    exact, reversed_ = exact_gradient(logits), exact_gradient(logits, backwards=True)
    torch.testing.assert_close(expected_gradient(logits, "k1", "policy"), torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(expected_gradient(logits, "k2", "policy"), exact)
    torch.testing.assert_close(expected_gradient(logits, "k3", "policy"), reversed_)
    torch.testing.assert_close(expected_gradient(logits, "k3_unbiased", "policy"), exact)
    torch.testing.assert_close(expected_gradient(logits, "k3_unbiased", "older policy"), exact)
    assert (exact - reversed_).abs().max() > 1e-6  # so the lines above tell the two directions apart


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3_unbiased"])
def test_equal_policies_have_no_kl(estimator: Any) -> None:
    logp = torch.tensor([-1.0, -2.0])
    assert kl_estimate(logp, logp.clone(), estimator, old_logp=logp).tolist() == [0.0, 0.0]


def test_the_unbiased_form_needs_the_samplers_log_probabilities() -> None:
    with pytest.raises(ValueError, match="old_logp"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k3_unbiased")


# -- in the reward -------------------------------------------------------------------------------------------------


def test_in_the_reward_by_hand() -> None:
    # k1: 0.5, -0.25, and 2 of the third; the second completion is empty.
    logp, ref = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.5, -0.75, -3.0])
    reward, lengths = torch.tensor([1.0, 7.0, 3.0], dtype=torch.float64), torch.tensor([2, 0, 1])
    summed = penalised_rewards(reward, logp, ref, lengths, 0.5)
    assert summed.dtype == torch.float64
    assert summed.tolist() == pytest.approx([1 - 0.5 * 0.25, 7, 3 - 0.5 * 2])
    paid = torch.tensor([0.0, 1.0, 3.0])  # the second completion has no token that could be paid
    assert token_rewards(paid, logp, ref, 0.5).tolist() == pytest.approx([-0.25, 1 + 0.125, 3 - 1])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.sampled_from([0.0, 0.1, 2.0]), st.integers(0, 10**6))
def test_tokens_sum_to_their_completions(lengths: list[int], coef: float, seed: int) -> None:
    torch.manual_seed(seed)
    logp, ref = torch.randn(2, sum(lengths), dtype=torch.float64)
    reward, counts = torch.randn(len(lengths), dtype=torch.float64), torch.tensor(lengths)
    paid = payments([((0, r),) for r in reward.tolist()], counts).double()
    tokens = token_rewards(paid, logp.requires_grad_(), ref, coef)
    summed = penalised_rewards(reward, logp, ref, counts, coef)
    assert not tokens.requires_grad and not summed.requires_grad
    for part, total, length in zip(tokens.split(lengths), summed, lengths, strict=True):
        if length:
            torch.testing.assert_close(part.sum(), total, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(summed[counts == 0], reward[counts == 0])


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_its_policy_gradient_is_that_of_the_kl_of_texts(seed: int) -> None:
    """All texts of two tokens, enumerated: REINFORCE with the penalty alone as reward is the exact gradient."""
    torch.manual_seed(seed)
    first, second, ref_first, ref_second = (torch.randn(shape, dtype=torch.float64) for shape in ((3,), (3, 3)) * 2)
    theta = (first.requires_grad_(), second.requires_grad_())
    texts = [(a, b) for a in range(3) for b in range(3)]

    def logps(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:  # [texts, 2]
        return torch.stack([torch.stack([one.log_softmax(-1)[a], two[a].log_softmax(-1)[b]]) for a, b in texts])

    logp, ref = logps(*theta), logps(ref_first, ref_second)
    whole, chance = logp.sum(1), logp.sum(1).exp()
    exact = torch.autograd.grad((chance * (whole - ref.sum(1))).sum(), theta, retain_graph=True)
    lengths = torch.full((9,), 2)
    penalty = penalised_rewards(torch.zeros(9, dtype=torch.float64), logp.flatten(), ref.flatten(), lengths, 1.0)
    ours = torch.autograd.grad(-(chance.detach() * penalty * whole).sum(), theta)
    torch.testing.assert_close(ours, exact)


@given(st.integers(1, 3), st.integers(2, 4), st.integers(0, 10**6))
def test_in_the_reward_as_trl_does_for_rloo(prompts: int, completions: int, seed: int) -> None:
    from trl import RLOOTrainer

    torch.manual_seed(seed)
    rows, longest = prompts * completions, 4
    lengths = torch.randint(1, longest + 1, (rows,))
    mask = torch.arange(longest)[None] < lengths[:, None]
    old, ref = torch.randn(2, rows, longest, dtype=torch.float64)
    reward = torch.randn(prompts, completions, dtype=torch.float64)
    names = {
        "self": SimpleNamespace(beta=0.3, normalize_advantages=False),
        "rewards": reward.flatten(),
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "completion_mask": mask,
        "gather": lambda x: x,
        "num_generations": completions,
    }
    theirs = trl_lines(
        RLOOTrainer, "if self.beta != 0.0:\n            # RLOO uses the first-order", "is_std_zero =", names
    )
    penalised = penalised_rewards(reward.flatten(), old[mask], ref[mask], lengths, 0.3).view_as(reward)
    ours = group_advantages(penalised, baseline="leave_one_out", scale="none")
    torch.testing.assert_close(ours.flatten(), theirs, atol=1e-7, rtol=1e-7)


# -- the controller ------------------------------------------------------------------------------------------------


def test_updates_by_hand() -> None:
    controller = KlController(0.1, target=0.2, gain=0.5)
    assert controller.update(0.3) == pytest.approx(0.1 * (1 + 0.5 * 0.5))  # 0.3 / 0.2 - 1 = 0.5
    assert controller.update(0.0) == pytest.approx(0.125 * (1 - 0.5))
    assert controller.update(100.0) == pytest.approx(0.0625 * 1.5)  # the error is clipped at 1
    assert controller.update(math.inf) == pytest.approx(0.09375 * 1.5)


@given(st.floats(1e-3, 10), st.floats(0, 10), st.floats(1e-3, 1))
def test_moves_towards_the_target(coef: float, kl: float, target: float) -> None:
    after = KlController(coef, target=target).update(kl)
    assert (after > coef) == (kl > target) or after == pytest.approx(coef)
    assert after >= 1e-4


def test_steers_a_process_to_its_target() -> None:
    """A stand-in for training: the stronger the pull, the smaller the KL."""
    controller, kl = KlController(1e-3, target=0.1, gain=0.2), 0.0
    for _ in range(200):
        kl = 0.02 / (controller.coef + 0.05)
        controller.update(kl)
    assert kl == pytest.approx(0.1, rel=0.02)


def test_without_a_target_it_is_fixed_and_nan_says_nothing() -> None:
    fixed = KlController(0.3)
    assert fixed.update(5.0) == 0.3
    steered = KlController(0.3, target=0.1)
    assert steered.update(math.nan) == 0.3


def test_its_state_comes_back() -> None:
    controller = KlController(0.1, target=0.2)
    controller.update(0.5)
    other = KlController(0.1, target=0.2)
    other.load(controller.state())
    assert other.coef == controller.coef != 0.1
    assert other.update(0.4) == controller.update(0.4)

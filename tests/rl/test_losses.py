"""The losses against TRL's own ``_compute_loss`` of its GRPO and RLOO trainers, value and gradient."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.rl.correction import sampler_weights
from rlrp.rl.kl import kl_estimate
from rlrp.rl.losses import PolicyLoss, cispo_loss, grpo_loss, importance_ratio, token_weights

MAX_TOKENS = 9


def trl_loss(
    logp_BT: torch.Tensor,
    batch: dict[str, torch.Tensor],
    *,
    kind: str,
    low: float,
    high: float,
    beta: float,
    fix: bool = False,
    level: str = "token",
    corrected: bool = False,
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
        importance_sampling_level=level,
        beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=fix, delta=None, steps_per_generation=1),
        loss_type=kind,
        epsilon_low=low,
        epsilon_high=high,
        use_vllm=corrected,
        vllm_importance_sampling_correction=corrected,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_TOKENS,
        accelerator=accelerator,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    return GRPOTrainer._compute_loss(trainer, None, batch)


class Case:
    """Random log-probabilities with many ratios beyond the clip, padded for TRL and end to end for us."""

    def __init__(self, lengths: list[int], seed: int):
        torch.manual_seed(seed)
        rows, longest = len(lengths), max(lengths)
        self.lengths = torch.tensor(lengths)
        self.mask = torch.arange(longest)[None] < self.lengths[:, None]
        logp = -torch.rand(rows, longest, dtype=torch.float64) * 3
        self.old, self.reference = (logp + torch.randn_like(logp) * 0.3 for _ in range(2))
        self.advantage = torch.randn(rows, dtype=torch.float64)
        self.theirs, self.ours = logp.clone().requires_grad_(), logp.clone().requires_grad_()
        self.logp_S = self.ours[self.mask]
        self.arguments = (self.logp_S, self.old[self.mask], self.advantage.repeat_interleave(self.lengths))
        self.batch = {
            "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
            "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
            "completion_ids": torch.zeros(rows, longest, dtype=torch.long),
            "completion_mask": self.mask.long(),
            "advantages": self.advantage,
            "old_per_token_logps": self.old,
            "old_logps": (self.old * self.mask).sum(1),
            "ref_per_token_logps": self.reference,
            "num_items_in_batch": self.mask.sum(),
        }

    def weights(self, aggregate: Any) -> torch.Tensor:
        # Twice as wide as the product's: what is compared is the formula.
        return token_weights(self.lengths, aggregate, max_tokens=MAX_TOKENS).double()

    def kl(self, estimator: Any) -> torch.Tensor:
        return kl_estimate(self.logp_S, self.reference[self.mask], estimator, old_logp=self.old[self.mask])

    def check(self, ours: PolicyLoss, theirs: torch.Tensor) -> None:
        theirs.backward()
        ours.loss.backward()
        torch.testing.assert_close(ours.loss, theirs, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(self.ours.grad, self.theirs.grad, atol=1e-6, rtol=1e-6)


cases = st.builds(Case, st.lists(st.integers(1, MAX_TOKENS), min_size=1, max_size=5), st.integers(0, 10**6))
betas = st.sampled_from([0.0, 0.04, 1.0])
AGGREGATES: dict[str, Any] = {"grpo": "grpo", "dr_grpo": "dr_grpo", "dapo": "token"}
"""TRL's loss types with the clipped surrogate, and how ours adds their tokens up."""


@settings(max_examples=60)
@given(cases, st.sampled_from(list(AGGREGATES)), st.sampled_from([0.2, 0.28]), betas, st.booleans())
def test_equal_to_trls(case: Case, kind: str, high: float, beta: float, fix: bool) -> None:
    theirs = trl_loss(case.theirs, case.batch, kind=kind, low=0.2, high=high, beta=beta, fix=fix)
    kl = case.kl("k3_unbiased" if fix else "k3")
    ours = grpo_loss(
        *case.arguments, case.weights(AGGREGATES[kind]), clip_low=0.2, clip_high=high, kl_S=kl, kl_coef=beta
    )
    case.check(ours, theirs)


@settings(max_examples=60)
@given(cases, st.sampled_from(list(AGGREGATES)), st.sampled_from([(3e-4, 4e-4), (0.1, 0.2)]), betas)
def test_gspo_is_equal_to_trls(case: Case, kind: str, clip: tuple[float, float], beta: float) -> None:
    # Their KL with bias correction takes the ratio of the sequence, which corrects no token's bias: not ours.
    theirs = trl_loss(case.theirs, case.batch, kind=kind, low=clip[0], high=clip[1], beta=beta, level="sequence")
    ours = grpo_loss(
        *case.arguments,
        case.weights(AGGREGATES[kind]),
        clip_low=clip[0],
        clip_high=clip[1],
        kl_S=case.kl("k3"),
        kl_coef=beta,
        ratio="sequence",
        lengths=case.lengths,
    )
    case.check(ours, theirs)


@settings(max_examples=60)
@given(cases, st.sampled_from([0.2, 4.0]), betas, st.booleans())
def test_cispo_is_equal_to_trls(case: Case, high: float, beta: float, fix: bool) -> None:
    theirs = trl_loss(case.theirs, case.batch, kind="cispo", low=0.2, high=1 + high, beta=beta, fix=fix)
    kl = case.kl("k3_unbiased" if fix else "k3")
    ours = cispo_loss(*case.arguments, case.weights("token"), clip_high=high, kl_S=kl, kl_coef=beta)
    case.check(ours, theirs)


@settings(max_examples=60)
@given(
    cases,
    st.sampled_from([("grpo", "grpo"), ("dapo", "token"), ("cispo", "token")]),
    st.sampled_from(["truncate", "mask"]),
    st.sampled_from(["token", "sequence"]),
    st.integers(0, 10**6),
)
def test_corrected_for_the_sampler_they_are_equal_to_trls(
    case: Case, kind: tuple[str, Any], how: Any, of: Any, seed: int
) -> None:
    """The weights multiply the surrogate and not the KL. Their metrics want to know how far the sampler was off."""
    generator = torch.Generator().manual_seed(seed)
    sampler = case.old + 0.5 * torch.randn(case.old.shape, generator=generator, dtype=torch.float64)
    weights = sampler_weights(case.old[case.mask], sampler[case.mask], case.lengths, kind=how, level=of).weight_S
    padded = torch.zeros_like(case.old).masked_scatter(case.mask, weights)
    batch = case.batch | {"importance_sampling_ratio": padded if of == "token" else padded[:, :1]}
    theirs = trl_loss(case.theirs, batch, kind=kind[0], low=0.2, high=1.5, beta=0.04, corrected=True)
    loss, high = (cispo_loss, 0.5) if kind[0] == "cispo" else (grpo_loss, 1.5)
    ours = loss(
        *case.arguments,
        case.weights(kind[1]),
        clip_low=1.0 if kind[0] == "cispo" else 0.2,
        clip_high=high,
        kl_S=case.kl("k3"),
        kl_coef=0.04,
        correction_S=weights,
    )
    case.check(ours, theirs)


@settings(max_examples=60)
@given(cases, st.sampled_from([0.2, 0.28]))
def test_rloo_is_equal_to_trls(case: Case, high: float) -> None:
    from trl import RLOOTrainer

    accelerator = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (case.theirs, torch.zeros_like(case.theirs), None),
        aux_loss_enabled=False,
        epsilon_low=0.2,
        epsilon_high=high,
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        _metrics={"train": defaultdict(list)},
    )
    theirs = RLOOTrainer._compute_loss(trainer, None, case.batch)
    ours = grpo_loss(*case.arguments, case.weights("grpo"), clip_high=high, ratio="trajectory", lengths=case.lengths)
    case.check(ours, theirs)


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


def test_cispo_by_hand() -> None:
    """Beyond the bound a token's weight is the bound, and the gradient stays: -bound * A and -ratio * A."""
    logp = torch.tensor([8.0, 0.5]).log().requires_grad_()
    out = cispo_loss(logp, torch.zeros(2), torch.tensor([1.0, 1.0]), torch.ones(2))
    out.loss.backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-5.0, -0.5])
    assert out.clipped.tolist() == [True, False]
    assert out.ratio.tolist() == pytest.approx([8.0, 0.5])
    low = cispo_loss(logp, torch.zeros(2), torch.ones(2), torch.ones(2), clip_low=0.2)
    assert low.clipped.tolist() == [True, True]  # a lower bound is there for who wants one


def test_ratios_of_whole_completions_by_hand() -> None:
    # Log-ratios 0.1 and 0.5 of one completion, nothing of an empty one, -0.2 of the third.
    logp, lengths = torch.tensor([0.1, 0.5, -0.2]), torch.tensor([2, 0, 1])
    zero = torch.zeros(3)
    mean, product, alone = (torch.tensor(x).exp().item() for x in (0.3, 0.6, -0.2))
    assert importance_ratio(logp, zero, "sequence", lengths).tolist() == pytest.approx([mean, mean, alone])
    assert importance_ratio(logp, zero, "trajectory", lengths).tolist() == pytest.approx([product, product, alone])
    empty = torch.zeros(0)
    assert importance_ratio(empty, empty, "sequence", torch.tensor([0])).tolist() == []


def test_ratios_of_whole_completions_need_their_lengths() -> None:
    for lengths in (None, torch.tensor([2])):
        with pytest.raises(ValueError, match="expected the 3 tokens"):
            importance_ratio(torch.zeros(3), torch.zeros(3), "sequence", lengths)


@given(cases, st.sampled_from(["token", "sequence", "trajectory"]))
def test_on_policy_every_loss_has_reinforces_gradient(case: Case, ratio: Any) -> None:
    """At ratios of 1 nothing is clipped. A completion's own weights then make the three ratios one gradient each:
    that of ``-sum(weight * A * logp)``, times the length where the ratio is a product over the completion."""
    for loss in (grpo_loss, cispo_loss):
        logp, _, advantage = (x.detach() for x in case.arguments)
        leaf = logp.clone().requires_grad_()
        weight = case.weights("grpo")
        out = loss(leaf, logp, advantage, weight, ratio=ratio, lengths=case.lengths)
        out.loss.backward()
        times = case.lengths.repeat_interleave(case.lengths) if (ratio, loss) == ("trajectory", grpo_loss) else 1
        torch.testing.assert_close(leaf.grad, -weight * advantage * times)
        assert not out.clipped.any()


@settings(max_examples=20)
@given(cases, st.sampled_from(["token", "sequence", "trajectory"]))
def test_the_split_into_micro_batches_changes_nothing(case: Case, ratio: Any) -> None:
    weight = case.weights("grpo")
    counts = case.lengths.tolist()
    for loss in (grpo_loss, cispo_loss):
        whole = loss(*case.arguments, weight, ratio=ratio, lengths=case.lengths).loss
        parts = zip(*(x.split(counts) for x in (*case.arguments, weight)), counts, strict=True)
        alone = [loss(*part, ratio=ratio, lengths=torch.tensor([count])).loss for *part, count in parts]
        torch.testing.assert_close(torch.stack(alone).sum(), whole)


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

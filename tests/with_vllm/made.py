"""Policies to send, and what the learner says of what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlrp.lm.adapters import AdapterState, LoraSettings, adapter_state
from rlrp.lm.sampling import Completion, SampleRequest
from rlrp.lm.scoring import TokenGroup, token_logprobs

LORA = LoraSettings(r=8, alpha=20)
"""A scaling of 2.5: a product with it rounds, so that a merge done in another order would show."""
TEMPERATURE = 0.9
MEAN_GAP, MOST_GAP = 5e-5, 5e-4
"""Nats a token between two float32 forwards of 30 layers whose sums are added up in different orders: 6e-6 on average
and 3e-5 at most where it was measured. A learner's first step moves them by more than 1e-2."""


@torch.no_grad()
def drawn_state(policy: Any, seed: int, std: float = 0.02, only: Sequence[str] = ("",)) -> AdapterState:
    """Give the policy an adapter that changes what it says; ``std`` 0 leaves the model as it comes. The state has the
    modules with one of ``only`` in their names; the adapter of the others does nothing."""
    torch.manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.copy_(torch.randn_like(parameter) * std * _among(name, only))
    return {name: tensor for name, tensor in adapter_state(policy).items() if _among(name, only)}


def _among(name: str, only: Sequence[str]) -> bool:
    return any(part in name for part in only)


@torch.no_grad()
def gaps(
    model: Any, requests: Sequence[SampleRequest], groups: Sequence[Sequence[Completion]], temperature: float
) -> torch.Tensor:
    """Per token, how far the sampler's log-probability is from the one that the learner computes."""
    drawn = [TokenGroup(r.prompt, tuple(c.ids for c in group)) for r, group in zip(requests, groups, strict=True)]
    scored = token_logprobs(model, drawn, temperature=temperature).logp
    return (torch.tensor([x for group in groups for c in group for x in c.logps]) - scored).abs()


def assert_agree(
    model: Any,
    requests: Sequence[SampleRequest],
    groups: Sequence[Sequence[Completion]],
    temperature: float = TEMPERATURE,
) -> None:
    gap = gaps(model, requests, groups, temperature)
    print(f"{len(gap)} tokens differ by {gap.mean():.1e} nats on average, {gap.max():.1e} at most")
    assert gap.mean() < MEAN_GAP, (float(gap.mean()), float(gap.max()))
    assert gap.max() < MOST_GAP, (float(gap.mean()), float(gap.max()))

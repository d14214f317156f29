"""Policy-gradient losses as pure functions of tensors.

Shapes: S tokens of all completions end to end; ``sequence_S`` numbers the completion that a token belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Aggregate = Literal["grpo", "dr_grpo", "token"]


@dataclass
class PolicyLoss:
    """The scalar to minimise, and what a person wants to see of it (detached)."""

    loss: Tensor
    ratio: Tensor
    """Raw importance ratios [S], before any clipping."""
    clipped: Tensor
    """1 where clipping took the gradient away [S]."""


def grpo_loss(
    logp_S: Tensor,
    old_logp_S: Tensor,
    advantage_S: Tensor,
    weight_S: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_S: Tensor | None = None,
    kl_coef: float = 0.0,
) -> PolicyLoss:
    """Clipped surrogate with an optional KL term, summed under per-token weights.

    ``-sum(weight * min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)) + coef * sum(weight * kl)``: GRPO, arXiv
    2402.03300, eq. 3; with ``clip_high > clip_low`` DAPO's clip-higher, arXiv 2503.14476, eq. 10. The weights come
    from ``token_weights``, so the value does not depend on how the batch is split.
    """
    log_ratio = logp_S - old_logp_S
    ratio = torch.exp(log_ratio)
    clipped_ratio = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    unclipped, clipped = ratio * advantage_S, clipped_ratio * advantage_S
    per_token = -torch.minimum(unclipped, clipped)
    if kl_S is not None and kl_coef:
        per_token = per_token + kl_coef * kl_S
    return PolicyLoss((per_token * weight_S).sum(), ratio.detach(), (clipped < unclipped).detach())


def token_weights(lengths: Tensor, aggregate: Aggregate, *, max_tokens: int) -> Tensor:
    """Weight of every token [S] for completions of ``lengths`` [B]; a batch's weights are fixed before it is split.

    ``grpo``: each completion counts the same, 1 / (B * length). ``dr_grpo``: 1 / (B * max_tokens), no bias towards
    short or long completions (arXiv 2503.20783, section 3.1). ``token``: each token counts the same (DAPO).
    """
    per_sequence = {
        "grpo": 1.0 / (len(lengths) * lengths.clamp(min=1).to(torch.float32)),
        "dr_grpo": torch.full((len(lengths),), 1.0 / (len(lengths) * max_tokens)),
        "token": torch.full((len(lengths),), 1.0 / max(1.0, float(lengths.sum()))),
    }[aggregate]
    return per_sequence.repeat_interleave(lengths)

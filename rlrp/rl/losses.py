"""Policy-gradient losses as pure functions of tensors.

Shapes: B completions, S tokens of all completions end to end; ``lengths`` [B] says how many tokens each has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlrp.algorithms import Aggregate, Ratio


@dataclass
class PolicyLoss:
    """The scalar to minimise, and what a person wants to see of it (detached)."""

    loss: Tensor
    ratio: Tensor
    """Raw importance ratios [S], before any clipping."""
    clipped: Tensor
    """1 where clipping took the gradient away (CISPO: bounded the weight) [S]."""


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
    ratio: Ratio = "token",
    lengths: Tensor | None = None,
    correction_S: Tensor | None = None,
) -> PolicyLoss:
    """Clipped surrogate with an optional KL term, summed under per-token weights.

    ``-sum(weight * min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)) + coef * sum(weight * kl)``: GRPO, arXiv
    2402.03300, eq. 3; with ``clip_high > clip_low`` DAPO's clip-higher, arXiv 2503.14476, eq. 10; with ``ratio``
    "sequence" GSPO, arXiv 2507.18071, eq. 5. The weights come from ``token_weights``, so the value does not depend on
    how the batch is split. ``lengths`` is needed by the ratios of whole completions, see ``importance_ratio``.
    ``correction_S`` multiplies the surrogate, not the KL, where ``old_logp_S`` are not the sampler's: see
    ``rlrp.rl.correction``.
    """
    ratio_S = importance_ratio(logp_S, old_logp_S, ratio, lengths)
    clipped_ratio = ratio_S.clamp(1.0 - clip_low, 1.0 + clip_high)
    unclipped, clipped = ratio_S * advantage_S, clipped_ratio * advantage_S
    per_token = -torch.minimum(unclipped, clipped)
    if correction_S is not None:
        per_token = correction_S * per_token
    if kl_S is not None and kl_coef:
        per_token = per_token + kl_coef * kl_S
    return PolicyLoss((per_token * weight_S).sum(), ratio_S.detach(), (clipped < unclipped).detach())


def cispo_loss(
    logp_S: Tensor,
    old_logp_S: Tensor,
    advantage_S: Tensor,
    weight_S: Tensor,
    *,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
    kl_S: Tensor | None = None,
    kl_coef: float = 0.0,
    ratio: Ratio = "token",
    lengths: Tensor | None = None,
    correction_S: Tensor | None = None,
) -> PolicyLoss:
    """REINFORCE under bounded importance weights: clipping bounds a token's weight and never takes its gradient away.

    ``-sum(weight * stopgrad(clip(ratio, 1 - low, 1 + high)) * A * logp)``: CISPO, MiniMax-M1, arXiv 2506.13585,
    section 3.1, eq. 4 and 5. As there, the weight has no lower bound by default: ratios are positive, so ``clip_low``
    1 does nothing. The upper bound 5 is ScaleRL's, arXiv 2510.13786; TRL's ``epsilon_high`` is the bound itself,
    ``1 + clip_high`` here. KL, weights and correction as in ``grpo_loss``. The value is no surrogate of the reward:
    only its gradient means something.
    """
    ratio_S = importance_ratio(logp_S, old_logp_S, ratio, lengths).detach()
    bounded = ratio_S.clamp(1.0 - clip_low, 1.0 + clip_high)
    per_token = -bounded * advantage_S * logp_S
    if correction_S is not None:
        per_token = correction_S * per_token
    if kl_S is not None and kl_coef:
        per_token = per_token + kl_coef * kl_S
    return PolicyLoss((per_token * weight_S).sum(), ratio_S, bounded != ratio_S)


LOSSES = {"clip": grpo_loss, "cispo": cispo_loss}
"""By the surrogate's name, see ``rlrp.algorithms``."""


def importance_ratio(logp_S: Tensor, old_logp_S: Tensor, ratio: Ratio, lengths: Tensor | None = None) -> Tensor:
    """Policy over sampler for every token [S]; those of one completion are equal unless ``ratio`` is "token".

    ``token``: of the token alone. ``sequence``: the geometric mean over the completion, GSPO's, arXiv 2507.18071,
    eq. 7. ``trajectory``: the product over the completion, whose gradient is REINFORCE's for the completion as one
    action; as in TRL's RLOO, after arXiv 2402.14740, section 3.

    Raises:
        ValueError: ``lengths`` is missing for a ratio of whole completions, or does not sum to S.
    """
    log_ratio = logp_S - old_logp_S
    if ratio == "token":
        return torch.exp(log_ratio)
    counts = [] if lengths is None else lengths.tolist()
    if lengths is None or sum(counts) != len(log_ratio):
        raise ValueError(f"ratio {ratio!r}: lengths sum to {sum(counts)}, expected the {len(log_ratio)} tokens")
    # Split, sum, expand: their gradients add up in a fixed order, those of scattered sums need not.
    totals = [part.sum() / (len(part) if ratio == "sequence" else 1) for part in log_ratio.split(counts) if len(part)]
    sizes = [count for count in counts if count]
    parts = [torch.exp(total).expand(size) for total, size in zip(totals, sizes, strict=True)]
    return torch.cat(parts or [log_ratio])


def token_weights(lengths: Tensor, aggregate: Aggregate, *, max_tokens: int) -> Tensor:
    """Weight of every token [S] for completions of ``lengths`` [B]; a batch's weights are fixed before it is split.

    ``grpo``: each completion counts the same, 1 / (B * length). ``dr_grpo``: 1 / (B * max_tokens), no bias towards
    short or long completions (arXiv 2503.20783, section 3.1). ``token``: each token counts the same, 1 / sum(lengths)
    (DAPO, arXiv 2503.14476, section 3.3, eq. 12).
    """
    per_sequence = {
        "grpo": 1.0 / (len(lengths) * lengths.clamp(min=1).to(torch.float32)),
        "dr_grpo": torch.full((len(lengths),), 1.0 / (len(lengths) * max_tokens)),
        "token": torch.full((len(lengths),), 1.0 / max(1.0, float(lengths.sum()))),
    }[aggregate]
    return per_sequence.repeat_interleave(lengths)

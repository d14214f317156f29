"""Importance weights for completions that another policy drew than the one that learns: a sampler whose weights are
some steps old, or whose kernels round otherwise.

The clipped surrogate then keeps the policy near a proximal one, the learner's own at the start of the step, and these
weights say how much likelier that one makes what was drawn: PPO's decoupled objective (arXiv 2110.00641; AReaL, arXiv
2505.24298, section 5.2). Shapes: B completions, S tokens of all completions end to end; ``lengths`` [B].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlrp.algorithms import Correction, CorrectionLevel


@dataclass(frozen=True)
class CorrectionSettings:
    """See ``rl.correction`` in ``rlrp.config``, and ``sampler_weights``."""

    kind: Correction = "none"
    level: CorrectionLevel = "token"
    cap: float = 2.0
    floor: float | None = None


@dataclass(frozen=True)
class SamplerWeights:
    """Detached weights of the surrogate, and what they were before any bound."""

    weight_S: Tensor
    """To multiply each token's surrogate with [S]."""
    raw_S: Tensor
    """Proximal policy over sampler, of what ``level`` says [S]."""

    @property
    def corrected_S(self) -> Tensor:
        """1 where a bound changed the weight [S]."""
        return self.weight_S != self.raw_S


@torch.no_grad()
def sampler_weights(
    proximal_S: Tensor,
    sampler_S: Tensor,
    lengths: Tensor,
    *,
    kind: Correction,
    level: CorrectionLevel = "token",
    cap: float = 2.0,
    floor: float | None = None,
) -> SamplerWeights:
    """``exp(proximal - sampler)``, bounded: TRL 1.16's ``vllm_importance_sampling_mode``.

    ``truncate`` bounds it to at most ``cap`` and at least ``floor`` (truncated importance sampling; without a floor by
    default). ``mask`` makes it 0 above ``cap`` and below ``floor``, by default ``1 / cap`` (masked importance
    sampling): what the policy would hardly have said, or the sampler hardly, teaches nothing. At ``level`` "sequence"
    all tokens of a completion share the product of theirs.

    Raises:
        ValueError: ``lengths`` do not sum to S.
    """
    counts = lengths.tolist()
    apart = proximal_S - sampler_S
    if sum(counts) != len(apart):
        raise ValueError(f"lengths sum to {sum(counts)}, expected the {len(apart)} tokens")
    if level == "sequence":
        apart = torch.cat([part.sum().expand(len(part)) for part in apart.split(counts)] or [apart])
    raw = torch.exp(apart)
    if kind == "truncate":
        return SamplerWeights(raw.clamp(floor, cap), raw)
    if kind == "mask":
        low = 1.0 / cap if floor is None else floor
        return SamplerWeights(raw.masked_fill((raw < low) | (raw > cap), 0.0), raw)
    return SamplerWeights(torch.ones_like(raw), raw)

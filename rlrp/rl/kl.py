"""Estimators of KL(policy || reference) from log-probabilities of sampled tokens: as a loss or in the reward; and the
adaptive coefficient. The KL over the whole vocabulary is in ``full_kl``.

``logp`` is the policy's, ``ref_logp`` the reference's; the tokens were drawn from the policy (J. Schulman,
"Approximating KL divergence", 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3", "k3_unbiased"]


def kl_estimate(logp: Tensor, ref_logp: Tensor, estimator: Estimator, *, old_logp: Tensor | None = None) -> Tensor:
    """Per-token estimates, the same shape as ``logp``.

    As values all are estimates of the KL: k1 unbiased with high variance, k2 biased, k3 unbiased and never negative.
    As losses their gradients differ. k1's has expectation 0 (it belongs in the reward, not in the loss). k2's is, in
    expectation, the exact gradient of the KL. k3's is that of the reversed KL(reference || policy). ``k3_unbiased``
    multiplies k3 by the ratio policy / sampler, whose gradient is then, in expectation, the exact one (DeepSeek-V3.2,
    arXiv 2512.02556, section 3.1; TRL's ``use_bias_correction_kl``); it needs ``old_logp``, the sampler's.
    """
    log_ratio = ref_logp - logp
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    k3 = torch.exp(log_ratio) - log_ratio - 1.0
    if estimator == "k3":
        return k3
    if old_logp is None:
        raise ValueError("k3_unbiased needs old_logp, the log-probabilities at sampling")
    return torch.exp(logp - old_logp) * k3


def penalised_rewards(reward_B: Tensor, logp_S: Tensor, ref_logp_S: Tensor, lengths: Tensor, coef: float) -> Tensor:
    """The KL in the reward, one number a completion [B]: ``reward - coef * sum over its tokens of k1``, detached.

    k1 summed over a completion is log(policy / reference) of the whole text, so the policy gradient of this reward is,
    in expectation, that of ``E[reward] - coef * KL`` over texts, in nats a completion: RLOO, arXiv 2402.14740,
    section 3, and TRL's. ``logp_S`` are the log-probabilities at sampling; the tokens of ``lengths`` [B] completions
    lie end to end. An empty completion keeps its reward.
    """
    k1_S = kl_estimate(logp_S, ref_logp_S, "k1").detach()
    sums = torch.stack([part.sum() for part in k1_S.split(lengths.tolist())])
    return reward_B - coef * sums.to(reward_B)


def token_rewards(paid_S: Tensor, logp_S: Tensor, ref_logp_S: Tensor, coef: float) -> Tensor:
    """The KL in the reward, at every token [S]: what was paid there, mostly at the last one, less ``coef * k1``.

    What PPO with a critic learns from (InstructGPT, arXiv 2203.02155, eq. 2; Ziegler et al., arXiv 1909.08593, eq. 2);
    over a completion it sums to ``penalised_rewards``. ``logp_S`` are the log-probabilities at sampling. Detached.
    """
    return paid_S - coef * kl_estimate(logp_S, ref_logp_S, "k1").detach()


@dataclass
class KlController:
    """The KL coefficient: fixed, or steered towards a target per-token KL.

    The adaptive form is that of Ziegler et al., arXiv 1909.08593, section 2.2, in steps instead of samples:
    ``coef *= 1 + gain * clip(kl / target - 1, -clip, clip)``. Its state is part of a checkpoint.
    """

    coef: float
    target: float | None = None
    gain: float = 0.1
    clip: float = 1.0
    floor: float = 1e-4

    def update(self, kl: float) -> float:
        """Take one step's mean per-token KL (nats); the coefficient for the next step. A NaN says nothing."""
        if self.target is not None and not math.isnan(kl):
            error = min(max(kl / self.target - 1.0, -self.clip), self.clip)
            self.coef = max(self.floor, self.coef * (1.0 + self.gain * error))
        return self.coef

    def state(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load(self, state: dict[str, float]) -> None:
        self.coef = float(state["coef"])

"""From rewards to what every token of a batch is worth to the update, where that takes more than the rewards: the KL to
the anchor in them, or a critic's values.

Advantages of the rewards alone are the driver's (``rlrp.runtime.credit``). Shapes: P prompts, G completions per
prompt, B completions, S tokens of all completions end to end; ``lengths`` [B] says how many tokens each has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlrp.algorithms import Baseline, Scale
from rlrp.rl.advantages import group_advantages, whiten
from rlrp.rl.kl import penalised_rewards
from rlrp.rl.ppo import gae

Rewards = tuple[tuple[int, float], ...]
"""What a completion was paid: (token index, reward) pairs. Most are paid once, at the last token."""


def payments(rewards: Sequence[Rewards], lengths: Tensor) -> Tensor:
    """What every token was paid [S]. An index beyond a completion's tokens pays at the last one; a completion without
    tokens has none that could be paid."""
    paid_S = torch.zeros(int(lengths.sum()))
    first = 0
    for paid, length in zip(rewards, lengths.tolist(), strict=True):
        for at, reward in paid:
            if length:
                paid_S[first + min(at, length - 1)] += reward
        first += length
    return paid_S


def reward_to_go(reward_S: Tensor, lengths: Tensor) -> Tensor:
    """REINFORCE++'s advantages at tokens [S]: the rewards and penalties still to come, whitened over the batch's tokens
    (arXiv 2501.03262)."""
    to_go, _ = gae(reward_S, torch.zeros_like(reward_S), lengths, lam=1.0)
    return whiten(to_go)


def penalised_advantages(
    rewards: Sequence[Rewards],
    logp_S: Tensor,
    ref_logp_S: Tensor,
    lengths: Tensor,
    coef: float,
    *,
    prompts: int,
    baseline: Baseline,
    scale: Scale,
    characters: Sequence[str] | None = None,
) -> Tensor:
    """Advantages [S] of rewards with the completion's KL in them, for algorithms with a baseline of the group.

    ``kl.penalised_rewards`` go through ``advantages.group_advantages``; a completion's tokens share what comes out.
    ``logp_S`` are the log-probabilities at sampling. The B completions are those of ``prompts`` prompts in turn.
    """
    total_B = torch.tensor([sum(reward for _, reward in paid) for paid in rewards], dtype=torch.float64)
    reward_PG = penalised_rewards(total_B, logp_S, ref_logp_S, lengths, coef).view(prompts, -1)
    advantage_PG = group_advantages(reward_PG, baseline=baseline, scale=scale, characters=characters)
    return advantage_PG.flatten().repeat_interleave(lengths).float()

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
from rlrp.rl.batch import Batch, Rewards
from rlrp.rl.kl import penalised_rewards, token_rewards
from rlrp.rl.ppo import explained_variance, gae
from rlrp.rl.settings import LearnerSettings


def credit(batch: Batch, settings: LearnerSettings, kl_coef: float) -> dict[str, Tensor]:
    """Put the batch's advantages, and a critic's returns, in place of what the driver knew; what is to be logged.

    Without a critic and with the KL in the loss the driver's advantages stay.
    """
    if settings.critic is None and not settings.kl_in_reward:
        return {}
    rewards, lengths, sampler_S = batch.rewards(), batch.lengths, torch.cat(batch.sampler)
    reference_S = torch.cat(batch.reference) if settings.kl_in_reward else sampler_S
    reward_S = token_rewards(payments(rewards, lengths), sampler_S, reference_S, kl_coef)
    notes: dict[str, Tensor] = {}
    if settings.critic is not None:
        value_S = torch.cat(batch.value)
        advantage_S, return_S = gae(reward_S, value_S, lengths, gamma=settings.critic.gamma, lam=settings.critic.lam)
        if settings.advantage_scale == "whiten":
            advantage_S = whiten(advantage_S)
        batch.returns = batch.per_row(return_S)
        explained = torch.tensor([explained_variance(value_S, return_S)])
        notes = {"value": value_S, "return": return_S, "explained_variance": explained[~explained.isnan()]}
    elif settings.baseline == "none":
        advantage_S = reward_to_go(reward_S, lengths)
    else:
        advantage_S = penalised_advantages(
            rewards,
            sampler_S,
            reference_S,
            lengths,
            kl_coef,
            prompts=len(batch.groups),
            baseline=settings.baseline,
            scale=settings.advantage_scale,
            characters=[group.character for group in batch.groups],
        )
    batch.advantage = batch.per_row(advantage_S)
    batch.mean_advantage = [float(row.mean()) if len(row) else 0.0 for row in batch.advantage]
    return notes


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

"""What PPO needs beside the policy's loss: advantages from a critic's values, the critic's loss and how good it is.

Left out here: the critic itself. The policy's loss is ``losses.grpo_loss``; rewards with the KL in them are
``kl.token_rewards``. Shapes: B completions, S tokens of all completions end to end; ``lengths`` [B] says how many
tokens each has. A value is the critic's, in units of the reward, of the text before its token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@torch.no_grad()
def gae(
    reward_S: Tensor,
    value_S: Tensor,
    lengths: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    after_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates [S] and the returns [S] that the critic learns: advantage + value.

    ``A_t = sum over l of (gamma * lam)^l * delta_{t+l}`` with ``delta_t = r_t + gamma * V_{t+1} - V_t``, within each
    completion: GAE, arXiv 1506.02438, section 3, eq. 16. ``lam`` 1 gives the reward to go less the value, 0 the
    one-step error. Values of 0 and ``gamma = lam = 1`` give the reward to go: REINFORCE++'s advantages at tokens, to be
    whitened over them (arXiv 2501.03262). Detached.

    Args:
        after_B: the value after each completion's last token; by default 0, the text ends there. For one that was cut
            off and could go on, the critic's value of the whole text.

    Raises:
        ValueError: rewards, values and lengths speak of different numbers of tokens.
    """
    counts = lengths.tolist()
    if reward_S.shape != value_S.shape or sum(counts) != len(value_S):
        raise ValueError(f"got {len(reward_S)} rewards, {len(value_S)} values and lengths that sum to {sum(counts)}")
    if not len(value_S):
        return torch.zeros_like(value_S), value_S.clone()
    # Padding has rewards, values and so errors of 0: going backwards, it hands 0 to the last token.
    reward_BT, value_BT = (pad_sequence(list(x.split(counts)), batch_first=True) for x in (reward_S, value_S))
    next_BT = torch.cat([value_BT[:, 1:], torch.zeros_like(value_BT[:, :1])], dim=1)
    if after_B is not None:
        spoken = lengths > 0
        next_BT[spoken, lengths[spoken] - 1] = after_B[spoken].to(next_BT)
    delta_BT = reward_BT + gamma * next_BT - value_BT
    advantage_BT, running_B = torch.zeros_like(delta_BT), torch.zeros_like(delta_BT[:, 0])
    for t in reversed(range(max(counts))):
        running_B = delta_BT[:, t] + gamma * lam * running_B
        advantage_BT[:, t] = running_B
    advantage_S = torch.cat([row[:count] for row, count in zip(advantage_BT, counts, strict=True)])
    return advantage_S, advantage_S + value_S


@dataclass
class ValueLoss:
    """The scalar to minimise, and where clipping took the critic's gradient away (detached)."""

    loss: Tensor
    clipped: Tensor
    """1 where the clipped error is the larger one [S]."""


def value_loss(
    value_S: Tensor, old_value_S: Tensor, return_S: Tensor, weight_S: Tensor, *, clip: float | None = 0.2
) -> ValueLoss:
    """``sum(weight * max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2)) / 2``.

    PPO's clipped value loss, not in its paper but in its code (arXiv 2005.12729, section 3): a step moves a value by
    no more than ``clip``, in units of the reward, unless that is a step away from the return. ``clip`` None is the
    squared error alone. ``old_value_S`` are the values that the returns were made with; weights as for the policy.
    """
    plain = (value_S - return_S).square()
    if clip is None:
        return ValueLoss(0.5 * (plain * weight_S).sum(), torch.zeros_like(plain, dtype=torch.bool))
    near = old_value_S + (value_S - old_value_S).clamp(-clip, clip)
    bounded = (near - return_S).square()
    return ValueLoss(0.5 * (torch.maximum(plain, bounded) * weight_S).sum(), (bounded > plain).detach())


def explained_variance(value_S: Tensor, return_S: Tensor) -> float:
    """``1 - Var(R - V) / Var(R)``: 1 for a critic that knows every return, 0 for a constant, negative for worse.

    It does not see a constant error. NaN where the returns do not vary, as there is nothing to explain.
    """
    spread = return_S.double().var(correction=0) if return_S.numel() else torch.zeros(())
    if float(spread) == 0.0:
        return float("nan")
    return 1.0 - float((return_S.double() - value_S.detach().double()).var(correction=0) / spread)

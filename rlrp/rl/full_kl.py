"""The KL over the whole vocabulary at every token, where estimates from the sampled token are too noisy.

Shapes: S tokens, C hidden size, V vocabulary. Logits exist for a chunk of tokens at a time, never [S, V].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from rlrp.lm.scoring import log_distribution, vocabulary_chunks


def full_kl(
    policy_SC: Tensor,
    reference_SC: Tensor,
    head: Any,
    softcap: float | None = None,
    *,
    temperature: float = 1.0,
    reverse: bool = False,
    reference_head: Any = None,
) -> Tensor:
    """KL(policy || reference) in nats at every token [S], exact, from both models' last hidden states.

    The next token's distributions are those of the states' projections ``head`` (see ``lm.scoring.output_head``; the
    reference's own is ``reference_head``, if it has one) at ``temperature``. ``reverse`` gives KL(reference || policy),
    which is what distillation takes. Gradients flow to the policy's states and head alone, and the logits of a chunk
    are computed again for them. Given a sampled text, this is the
    sum over actions of each state's KL, without the variance of k1 to k3; summed over a text and averaged over texts
    drawn from the policy it is the KL of texts, but its gradient leaves out how the policy's choice of states changes.
    """
    parts = [
        torch.utils.checkpoint.checkpoint(
            _chunk,
            policy_SC[rows],
            reference_SC[rows],
            head,
            reference_head or head,
            softcap,
            temperature,
            reverse,
            use_reentrant=False,
        )
        for rows in vocabulary_chunks(len(policy_SC), head.weight)
    ]
    return torch.cat(parts or [policy_SC.sum(-1).float()])


def _chunk(
    policy: Tensor,
    reference: Tensor,
    head: Any,
    reference_head: Any,
    softcap: float | None,
    temperature: float,
    reverse: bool,
) -> Tensor:
    with torch.no_grad():
        anchor = log_distribution(reference, reference_head, softcap, temperature)
    now = log_distribution(policy, head, softcap, temperature)
    first, second = (anchor, now) if reverse else (now, anchor)
    return (first.exp() * (first - second)).sum(-1)

"""The anchor on general text: on questions that have nothing to do with any card, the policy keeps the distribution of
the model it came from, whatever the rewards ask for elsewhere.

This is distillation from the model's own past on other data ("Learning without Forgetting", arXiv 1606.09282); here
with the whole distribution at every token of a given answer. The KL on sampled replies alone says nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rlrp.lm.scoring import TokenGroup, completion_hidden, output_head
from rlrp.rl.full_kl import full_kl
from rlrp.rl.order import GENERAL, shuffled
from rlrp.rl.policy import Policy


def general_kl(policy: Policy, groups: Sequence[TokenGroup]) -> Tensor:
    """KL(anchor || policy) in nats at every completion token, [S], over the whole vocabulary at temperature 1.

    Gradients flow to the policy's trained weights.
    """
    before_SC = policy.with_anchor(lambda anchor: completion_hidden(anchor, groups))

    def kl(model: Any, anchor: Any) -> Tensor:
        head, cap = output_head(model)
        now_SC = completion_hidden(model, groups)
        return full_kl(now_SC, before_SC, head, cap, reverse=True, reference_head=output_head(anchor)[0])

    return policy.with_both(kl)


def drawn(pairs: Sequence[TokenGroup], count: int, *, seed: int, step: int) -> list[TokenGroup]:
    """``count`` pairs for a step: every pair once per epoch, a function of seed and step alone."""
    draws = range(step * count, (step + 1) * count)
    return [pairs[shuffled(draw, len(pairs), seed=seed, stream=GENERAL)] for draw in draws]

"""Settings and groups that the learner's tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tiny_models import plain_logprobs

from rlrp.lm.adapters import LoraSettings
from rlrp.lm.scoring import TokenGroup
from rlrp.rl.learner import Learner, TrainGroup

LORA = LoraSettings(r=4, alpha=8)
TEMPERATURE = 0.8


def random_weights(parameters: Any, seed: int, names: Sequence[str] = ("lora_B",)) -> None:
    """Adapters that change something: a fresh one's B matrices are 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters.items():
        if any(wanted in name for wanted in names):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


def moved(learner: Learner, seed: int = 0) -> Learner:
    """A policy that has moved away from its anchor, past the first step's check; a critic that has an opinion."""
    random_weights(learner.policy.parameters, seed)
    if learner.critic:
        random_weights(learner.critic.parameters, seed + 1, ("lora_B", "head"))
        learner.critic.head.weight.data *= 10
    learner.updates = 1
    return learner


def sampled_by(learner: Learner, groups: Sequence[TrainGroup]) -> list[TrainGroup]:
    """The same groups with the log-probabilities that the learner's policy has now, by the plain forward."""
    out = []
    for group in groups:
        with torch.no_grad():
            logp = plain_logprobs(learner.policy.model, [TokenGroup(group.prompt, group.completions)], TEMPERATURE)
        rows = logp.split([len(c) for c in group.completions])
        out.append(replace(group, logps=tuple(tuple(row.tolist()) for row in rows)))
    return out


def captured(learner: Learner) -> dict[str, torch.Tensor]:
    """Fills with what every later step hands to the optimizers, which then do nothing; clipping must be far away."""
    seen: dict[str, torch.Tensor] = {}

    def capture(engine: Any, prefix: str) -> None:
        def keep() -> None:
            seen.update({prefix + n: p.grad.clone() for n, p in engine.parameters.items() if p.grad is not None})

        engine.optimizer.step = keep

    capture(learner.engine, "")
    if learner.critic:
        capture(learner.critic_engine, "critic/")
    return seen

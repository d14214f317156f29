"""The training loop: sample, judge, advantage, step, sync, log, checkpoint.

It knows neither Ray nor any reward: it is handed whatever samples, judges and learns.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rlrp.algorithms import Baseline, Scale
from rlrp.dialogue.types import Sample
from rlrp.lm.adapters import AdapterState
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.protocols import Judgement
from rlrp.rl.learner import StepReport, TrainGroup, TrainingDiverged
from rlrp.runtime.credit import set_advantages
from rlrp.runtime.groups import Group


class Samples(Protocol):
    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]: ...
    def sync(self, state: AdapterState, expected: str) -> None: ...


class Judges(Protocol):
    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]: ...


class Learns(Protocol):
    def step(self, groups: Sequence[TrainGroup]) -> StepReport: ...
    def weights(self) -> tuple[AdapterState, str]: ...


class Log(Protocol):
    def write(self, step: int, groups: Sequence[Group], report: StepReport, seconds: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class LoopSettings:
    steps: int
    group_size: int
    sampling: SamplingSettings
    seed: int = 0
    baseline: Baseline = "group"
    advantage_scale: Scale = "group"
    checkpoint_every: int = 10
    max_logp_gap: float = 0.01
    """Nats a token (mean) between sampler and learner above which the sampler cannot be holding the policy."""


def train(
    settings: LoopSettings,
    prompts_at: Callable[[int], list[Prompt]],
    rollouts: Samples,
    judges: Judges,
    learner: Learns,
    log: Log,
    checkpoint: Callable[[int], None],
    start: int = 0,
) -> None:
    """Run steps ``start`` to ``settings.steps``. Everything random is a function of the seed and the step."""
    rollouts.sync(*learner.weights())
    for step in range(start, settings.steps):
        clock = _Clock()
        with clock("sample"):
            prompts = prompts_at(step)
            requests = [SampleRequest(p.ids, completion_seeds(settings, step, i), p) for i, p in enumerate(prompts)]
            completions = rollouts.sample(requests, settings.sampling)
            groups = [Group(p, c) for p, c in zip(prompts, completions, strict=True)]
        with clock("judge"):
            for group, judgements in zip(groups, judges.judge([g.samples() for g in groups]), strict=True):
                group.take(judgements)
        set_advantages(groups, settings.advantage_scale, settings.baseline)
        with clock("learn"):
            report = learner.step([group.training() for group in groups])
            for group, kl in zip(groups, report.kl, strict=True):
                group.kl = kl
        with clock("sync"):
            rollouts.sync(*learner.weights())
        log.write(step, groups, report, clock.seconds)
        check_agreement(step, report, settings.max_logp_gap)
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            checkpoint(step + 1)


def check_agreement(step: int, report: StepReport, most: float) -> None:
    """Stop a run whose sampler speaks for other weights than the learner's, whatever the checksums said."""
    gap = report.metrics.get("logp_gap", 0.0)
    if gap > most:
        raise TrainingDiverged(
            f"step {step + 1}: sampler and learner differ by {gap:.2g} nats a token, expected below {most:g}; "
            "the last checkpoint is from before"
        )


def completion_seeds(settings: LoopSettings, step: int, prompt: int) -> tuple[int, ...]:
    """One seed per completion, so that what is drawn depends neither on batching nor on the number of actors."""
    keys = (f"{settings.seed}/{step}/{prompt}/{g}".encode() for g in range(settings.group_size))
    return tuple(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) for key in keys)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str):  # type: ignore[no-untyped-def]
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

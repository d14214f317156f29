"""The training loop: take judged groups, advantage, step, publish the weights, log, checkpoint.

It knows neither Ray nor any reward: it is handed what samples and judges, learns, logs and keeps checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlrp.rl.learner import StepReport, TrainGroup, TrainingDiverged
from rlrp.runtime.credit import CreditSettings, set_advantages
from rlrp.runtime.groups import Group
from rlrp.runtime.ledger import Entry


@dataclass
class Batch:
    """What a step learns from, what became of every draw that was used up for it, and what it took."""

    groups: list[Group]
    entries: list[Entry]
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Pending(Protocol):
    """Work of the learner that was begun; ``refs`` are ready when it is done."""

    refs: list[Any]

    @property
    def late(self) -> bool:
        """Whether it has taken longer than it may: its result is that the learner is lost."""
        ...

    def result(self) -> StepReport: ...


class Source(Protocol):
    """Where judged groups come from (``runtime.batches``), and who gets the policy that they are sampled from."""

    def publish(self, version: int, weights: Any, checksum: str) -> None: ...
    def start_next(self) -> None: ...
    def take(self, step: int) -> Batch: ...
    def meanwhile(self, pending: Pending) -> StepReport: ...


class Learns(Protocol):
    def begin(self, groups: Sequence[TrainGroup]) -> Pending: ...
    def weights(self) -> tuple[Any, str]: ...


class Log(Protocol):
    def write(self, step: int, batch: Batch, report: StepReport, seconds: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class LoopSettings:
    steps: int
    credit: CreditSettings = field(default_factory=CreditSettings)
    checkpoint_every: int = 10
    max_logp_gap: float = 0.01
    """Nats a token (mean) between sampler and learner above which the sampler cannot be holding the policy."""


def train(
    settings: LoopSettings,
    source: Source,
    learner: Learns,
    log: Log,
    checkpoint: Callable[[int, Batch], None],
    start: int = 0,
) -> None:
    """Run steps ``start`` to ``settings.steps``. Everything random is a function of the seed and of what is drawn.

    A step whose loss was not finite leaves no checkpoint: should such steps end the run, the last is from before them.
    """
    source.publish(start, *learner.weights())
    for step in range(start, settings.steps):
        clock = _Clock()
        with clock("step"):
            batch = source.take(step)
            set_advantages(batch.groups, settings.credit)
            with clock("learn"):
                report = source.meanwhile(learner.begin([group.training() for group in batch.groups]))
                for group, kl in zip(batch.groups, report.kl, strict=True):
                    group.kl = kl
                for group, advantages in zip(batch.groups, report.advantages, strict=False):
                    group.advantages = advantages
            with clock("sync"):
                source.publish(step + 1, *learner.weights())
        if step + 1 < settings.steps:
            source.start_next()  # the next batch is sampled while this one is written down
        log.write(step, batch, report, batch.seconds | clock.seconds)
        check_agreement(step, batch, report, settings.max_logp_gap)
        if not report.metrics.get("skipped_in_a_row") or step + 1 == settings.steps:
            checkpoint(step + 1, batch)


def check_agreement(step: int, batch: Batch, report: StepReport, most: float) -> None:
    """Stop a run whose sampler speaks for other weights than the learner's, whatever the checksums said."""
    gap = report.metrics.get("logp_gap", 0.0)
    if gap > most and not batch.metrics.get("staleness_max"):
        raise TrainingDiverged(
            f"step {step + 1}: sampler and learner differ by {gap:.2g} nats a token, expected below {most:g}; "
            "the last checkpoint is from before"
        )


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

"""A run of simulated engines: the real loop, batches, pools and records, with something else in the actors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from simulated import Crowd, LearnerEngine, RewardEngine, RolloutEngine, Seat, asleep, itself

from reward.totals import TermSettings, Totals
from rlrp.dialogue import load_pool, read_prompts, resolve
from rlrp.lm.chat import ChatFormat
from rlrp.lm.load import load_tokenizer
from rlrp.lm.sampling import SamplingSettings
from rlrp.rl.learner import StepReport, TrainGroup
from rlrp.runtime import actors
from rlrp.runtime.actors import Host, Placement
from rlrp.runtime.batches import Batches, BatchSettings
from rlrp.runtime.loop import Batch, LoopSettings, train
from rlrp.runtime.pool import Faults, Pool, Slot
from rlrp.runtime.pools import Rollouts
from rlrp.runtime.records import RunLog
from rlrp.stages.rl import PromptOrder

RSS_AT = (1, 10, 50, 100, 200, 500, 1000)
"""Steps after which the driver's memory is told."""


@dataclass(frozen=True)
class Setup:
    """Sizes of a run and what its engines take."""

    rollouts: int
    rewards: int
    prompts: int
    group: int
    rollout: RolloutEngine
    reward: RewardEngine
    learner: LearnerEngine
    staleness: int = 0
    seed: int = 0

    @property
    def batches(self) -> BatchSettings:
        sampling = SamplingSettings(max_new_tokens=self.rollout.new_tokens)
        return BatchSettings(self.prompts, self.group, sampling, self.seed, self.staleness)


def prompt_order(model: str, seed: int) -> PromptOrder:
    """The shipped English cards and prompts with a real tokenizer."""
    pool = load_pool(
        cards="builtin:cards/en",
        dialogues="builtin:dialogues/en",
        contrasts=None,
        held_out="builtin:splits.json",
        seed=seed,
    )
    prompts = read_prompts(resolve("builtin:prompts/en.jsonl"))
    return PromptOrder(ChatFormat(load_tokenizer(model)), pool.cards, prompts, seed=seed)


class Counted(Pool):
    """A pool that counts answers; with crowds its actors sit in them."""

    crowds: Sequence[Any] = ()
    events = 0

    def take_in(self, slot: Slot, reference: Any) -> None:
        self.events += 1
        super().take_in(slot, reference)

    def _actor(self, index: int) -> Any:
        if not self.crowds:
            return super()._actor(index)
        return Seat(self.crowds[index % len(self.crowds)], index)


class EngineRollouts(Counted, Rollouts):
    def __init__(self, make: Callable[[], Any], placement: Placement, faults: Faults):
        self.weights = None
        Pool.__init__(self, "rollout", make, placement, faults)


def make_batches(setup: Setup, prompt_of: Callable[[int], Any], *, crowds: int = 0, sleep: bool = False) -> Batches:
    """Pools over actors of their own that sleep, over so many crowds, or over whatever stands in for Ray."""
    rollout, reward = (partial(itself, engine) for engine in (setup.rollout, setup.reward))
    if crowds:
        actors = [ray.remote(Crowd).options(num_cpus=0, max_concurrency=2000) for _ in range(crowds + 1)]
        EngineRollouts.crowds = [actor.remote(rollout) for actor in actors[:-1]]
        Rewards.crowds = [actors[-1].remote(reward)]
    wrap = asleep if sleep else lambda make: make
    faults = Faults()
    rollouts = EngineRollouts(wrap(rollout), Placement(actors=setup.rollouts, cpus=0), faults)
    judges = Rewards("reward", wrap(reward), Placement(actors=setup.rewards, cpus=0), faults)
    return Batches(setup.batches, prompt_of, rollouts, judges, totals())


class Rewards(Counted):
    pass


def totals() -> Totals:
    return Totals([(name, 1.0, TermSettings(normalise="group")) for name in ("in_character", "dissonance", "rules")])


class RemoteEngine:
    """The learner's engine in a Ray actor, as the driver sees a learner."""

    def __init__(self, engine: LearnerEngine):
        self.actor = ray.remote(Host).options(num_cpus=0).remote(asleep(partial(itself, engine)))
        actors.call(self.actor.start.remote())

    def begin(self, groups: Sequence[TrainGroup]) -> Begun:
        return Begun([self.actor.do.remote("step", list(groups))])

    def weights(self) -> tuple[Any, str]:
        state, checksum = self.actor.do.options(num_returns=2).remote("weights")
        return state, actors.call(checksum)


@dataclass
class Begun:
    refs: list[Any]
    late: bool = False

    def result(self) -> StepReport:
        report: StepReport = actors.call(self.refs[0])
        return report


@dataclass
class Watch:
    """The records of a run, real ones if there is a folder, and when and how large the driver was at each step."""

    log: RunLog | None
    now: Callable[[], float] = time.perf_counter
    ends: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)

    def write(self, step: int, batch: Batch, report: StepReport, seconds: dict[str, float]) -> None:
        started = time.perf_counter()
        if self.log:
            self.log.write(step, batch, report, seconds)
        self.rows.append({**seconds, "log": time.perf_counter() - started, "dropped": batch.metrics["dropped"]})
        self.ends.append(self.now())
        self.cpu.append(time.process_time())
        self.waits.append(batch.seconds["wait"])
        self.rss_mb.append(psutil.Process().memory_info().rss / 1e6)
        if step + 1 in RSS_AT:
            print(f"step {step + 1}: {self.rss_mb[-1]:.0f} MB", file=sys.stderr, flush=True)

    def per_step(self, values: Sequence[float], skip: int) -> float:
        """Mean growth of a count over the steps after the first ``skip``."""
        return (values[-1] - values[skip - 1]) / (len(values) - skip)


def run(batches: Batches, learner: Any, steps: int, watch: Watch) -> Watch:
    train(LoopSettings(steps=steps), batches, learner, watch, lambda step, batch: None)
    return watch


def open_log(folder: Path | None) -> RunLog | None:
    return RunLog(folder) if folder else None

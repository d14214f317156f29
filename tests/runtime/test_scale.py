"""256 rollout actors and 32 reward actors on a simulated clock: nobody idles while work waits, nothing piles up."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.protocols import Judgement
from rlrp.rl.learner import StepReport
from rlrp.runtime import pools
from rlrp.runtime.actors import Placement
from rlrp.runtime.batches import Batches, BatchSettings, Unit, completion_seeds, deal
from rlrp.runtime.groups import Group
from rlrp.runtime.pool import Faults, Pool, Task
from rlrp.runtime.pools import Rollouts, reward_pool
from rlrp.runtime.workers import RolloutSettings

from .made import prompt
from .simulated import Reference, SimulatedRay, list_schedule, ray  # noqa: F401

ROLLOUTS, REWARDS = 256, 32
STRICT = BatchSettings(prompts=512, group_size=2, sampling=SamplingSettings(max_new_tokens=5))
REPLY = Completion((1,), (0.0,), "reply", "stop")


def sampling_seconds(requests: Sequence[SampleRequest]) -> float:
    """Of a call: ten on average, lognormal."""
    return random.Random(requests[0].seeds[0]).lognormvariate(2.26, 0.3)


def judging_seconds(draw: int) -> float:
    return random.Random(draw).lognormvariate(-1.2, 0.5)


class Rollout:
    def __init__(self, settings: RolloutSettings):
        self.held = -1

    def seconds(self, method: str, args: tuple[Any, ...]) -> float:
        return sampling_seconds(args[0]) if method == "sample" else 0.0

    def load_adapter(self, state: int) -> str:
        return str(state)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        return [[replace(REPLY, text=str(r.prompt[0]))] * len(r.seeds) for r in requests]


class Reward:
    def judge(self, groups: Sequence[Sequence[Any]]) -> list[list[Judgement]]:
        return [[Judgement(float(i), {}) for i, _ in enumerate(group)] for group in groups]


class SlowReward(Reward):
    def seconds(self, method: str, args: tuple[Any, ...]) -> float:
        return sum(judging_seconds(int(group[0].reply)) for group in args[0])


class Totals:
    def combine(self, groups: Any, judgements: Any) -> Any:
        return judgements


class Made:
    """Prompts, and when they were made."""

    def __init__(self, ray: SimulatedRay):  # noqa: F811
        self.ray = ray
        self.at: dict[int, list[float]] = {}

    def __call__(self, draw: int) -> Prompt:
        self.at.setdefault(draw, []).append(self.ray.now)
        return replace(prompt(f"p{draw}"), ids=(draw, 0, 0))


class Learning:
    """A step that ends at a time of the clock."""

    late = False

    def __init__(self, ray: SimulatedRay, seconds: float):  # noqa: F811
        self.ray = ray
        self.refs = [Reference(ray.now + seconds, lambda: StepReport({}))]

    def result(self) -> StepReport:
        report: StepReport = self.ray.get(self.refs[0])
        return report


@pytest.fixture
def made(ray: SimulatedRay) -> Made:  # noqa: F811
    return Made(ray)


@pytest.fixture
def build(made: Made, monkeypatch: pytest.MonkeyPatch) -> Any:
    def batches(settings: BatchSettings, reward: type[Reward] = SlowReward) -> Batches:
        monkeypatch.setattr(pools, "RolloutWorker", Rollout)
        monkeypatch.setattr(pools, "RewardWorker", lambda build, threads: build())
        faults = Faults(straggler=None)
        rollouts = Rollouts(RolloutSettings("tiny"), Placement(actors=ROLLOUTS), faults)
        judges: Pool = reward_pool(reward, Placement(actors=REWARDS), faults)
        return Batches(settings, made, rollouts, judges, Totals())  # type: ignore[arg-type]

    return batches


def run(batches: Batches, ray: SimulatedRay, steps: int, learning: float) -> list[float]:  # noqa: F811
    """When each step began, and the last one ended."""
    times = [ray.now]
    if not batches.version:
        batches.publish(0, 0, "0")
    for step in range(batches.version, batches.version + steps):
        batches.take(step)
        batches.meanwhile(Learning(ray, learning))
        batches.publish(step + 1, step + 1, str(step + 1))
        times.append(ray.now)
    return times


def ideal(step: int) -> float:
    """List scheduling of a strict step's calls."""
    draws = range(step * STRICT.prompts, (step + 1) * STRICT.prompts)
    calls = []
    for share in deal([3] * STRICT.prompts, ROLLOUTS):
        requests = [SampleRequest((), completion_seeds(STRICT.seed, draws[i], STRICT.group_size)) for i in share]
        calls.append((sampling_seconds(requests), [judging_seconds(draws[i]) for i in share]))
    return list_schedule(calls, ROLLOUTS, REWARDS)


def test_list_schedule_by_hand() -> None:
    # Two actors: 5 | 4 + 3, so sampled at 4, 5, 7; one judge: 4-6, 6-7, 7-9.
    assert list_schedule([(3.0, [2.0]), (5.0, [1.0]), (4.0, [2.0])], 2, 1) == 9.0
    assert list_schedule([], 2, 1) == 0.0


def test_a_strict_step_takes_what_its_calls_take(build: Any, ray: SimulatedRay) -> None:  # noqa: F811
    times = run(build(STRICT), ray, 3, learning=4.0)
    assert [end - start - 4.0 for start, end in pairwise(times)] == [pytest.approx(ideal(step)) for step in range(3)]


@pytest.mark.parametrize(("staleness", "most"), [(1, 1.35), (2, 1.03)])
def test_how_much_ahead_keeps_every_actor_busy(build: Any, ray: SimulatedRay, staleness: int, most: float) -> None:  # noqa: F811
    """256 calls of ten seconds on 256 actors: ten seconds a step if none idles and none is in vain. A call that takes
    as long as a step and may be one step old is often too old by then, two steps are enough."""
    batches = build(replace(STRICT, staleness=staleness, prompts=256), Reward)
    times = run(batches, ray, 9, learning=1.0)
    # The first steps fill the line.
    assert 0.98 * 10 <= (times[-1] - times[3]) / 6 <= most * 10


def test_prompts_are_made_once_and_while_the_learner_works(build: Any, ray: SimulatedRay, made: Made) -> None:  # noqa: F811
    times = run(build(STRICT), ray, 2, learning=4.0)
    assert all(len(at) == 1 for at in made.at.values())
    # The first step's when it begins, the second's when the first is learnt from: four seconds before that ends.
    assert {made.at[draw][0] for draw in range(512)} == {0.0}
    assert [made.at[draw][0] for draw in (512, 1023)] == pytest.approx([times[1] - 4.0] * 2)


def test_nothing_piles_up(build: Any, ray: SimulatedRay) -> None:  # noqa: F811
    batches = build(replace(STRICT, staleness=1, prompts=64), Reward)

    def alive() -> dict[str, int]:
        gc.collect()
        kinds = [type(thing) for thing in gc.get_objects()]
        return {kind.__name__: kinds.count(kind) for kind in (Task, Unit, Group, Reference, Prompt)}

    run(batches, ray, 8, learning=1.0)
    early = alive()
    run(batches, ray, 16, learning=1.0)
    late = alive()
    # At most two batches are on their way, and the prompts of a third are made.
    assert early["Unit"] <= 2 * 64 and early["Prompt"] <= 3 * 64
    # Sixteen steps make 16 x 64 of each but the references, which are more.
    assert all(late[kind] <= early[kind] + 2 * 64 for kind in late)

"""The loop with plain classes in the workers' places: who is called, when, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlrp.dialogue.types import Sample
from rlrp.lm.adapters import AdapterState, checksum
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.protocols import Judgement
from rlrp.rl.learner import StepReport, TrainGroup, TrainingDiverged
from rlrp.runtime.credit import CreditSettings, set_advantages
from rlrp.runtime.groups import Group
from rlrp.runtime.loop import LoopSettings, completion_seeds, train

from .made import judged, prompt

SETTINGS = LoopSettings(steps=3, group_size=4, sampling=SamplingSettings(max_new_tokens=5), checkpoint_every=2)


class House:
    """Every part of a run in one place, so that the order of what happens to them is one list."""

    def __init__(self, settings: LoopSettings = SETTINGS, start: int = 0, prompts: int = 2):
        self.settings, self.prompts = settings, prompts
        self.version = start
        self.events: list[Any] = []
        self.requests: list[tuple[SampleRequest, ...]] = []
        self.trained: list[list[TrainGroup]] = []
        self.logged: list[tuple[int, list[Group], dict[str, float]]] = []

    def run(self, start: int = 0) -> House:
        train(self.settings, self.prompts_at, self, self, self, self, self.checkpoint, start)
        return self

    def prompts_at(self, step: int) -> list[Prompt]:
        self.events.append(f"prompts {step}")
        return [prompt(f"{step}/{i}") for i in range(self.prompts)]

    def sync(self, state: AdapterState, expected: str) -> None:
        assert checksum(state) == expected
        self.held = int(state["w"])
        self.events.append(f"sync {self.held}")

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        assert settings == self.settings.sampling
        self.events.append(f"sample with {self.held}")
        self.requests.append(tuple(requests))
        return [[Completion((seed % 7,), (-0.5,), str(seed % 7), "stop") for seed in r.seeds] for r in requests]

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        self.events.append("judge")
        return [[Judgement(float(sample.reply), {}) for sample in group] for group in groups]

    def step(self, groups: Sequence[TrainGroup]) -> StepReport:
        self.events.append("step")
        self.version += 1
        self.trained.append(list(groups))
        return StepReport({"loss": 0.0}, [[0.25] * len(g.completions) for g in groups])

    def weights(self) -> tuple[AdapterState, str]:
        state = {"w": torch.tensor([self.version])}
        return state, checksum(state)

    def write(self, step: int, groups: Sequence[Group], report: StepReport, seconds: dict[str, float]) -> None:
        self.events.append(f"log {step}")
        self.logged.append((step, list(groups), seconds))

    def checkpoint(self, steps: int) -> None:
        self.events.append(f"checkpoint {steps}")


def test_the_order_of_a_run() -> None:
    assert House().run().events == [
        *("sync 0",),
        *("prompts 0", "sample with 0", "judge", "step", "sync 1", "log 0"),
        *("prompts 1", "sample with 1", "judge", "step", "sync 2", "log 1", "checkpoint 2"),
        *("prompts 2", "sample with 2", "judge", "step", "sync 3", "log 2", "checkpoint 3"),
    ]


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (10, [3])])
def test_checkpoints_come_at_their_interval_and_at_the_end(every: int, expected: list[int]) -> None:
    events = House(replace(SETTINGS, checkpoint_every=every)).run().events
    assert [e for e in events if e.startswith("checkpoint")] == [f"checkpoint {n}" for n in expected]


def test_a_resumed_run_asks_for_what_the_whole_run_would_have_asked_for() -> None:
    whole, resumed = House().run(), House(start=2).run(start=2)
    assert resumed.requests == whole.requests[2:]
    assert resumed.trained == whole.trained[2:]
    assert resumed.events == ["sync 2", *whole.events[-7:]]
    assert House().run(start=3).events == ["sync 0"]


def test_what_was_sampled_and_judged_reaches_the_learner() -> None:
    house = House().run()
    for requests, groups in zip(house.requests, house.trained, strict=True):
        for request, group in zip(requests, groups, strict=True):
            assert group.prompt == request.prompt
            assert group.completions == tuple((seed % 7,) for seed in request.seeds)
            assert group.logps == ((-0.5,),) * 4
            rewards = torch.tensor([[float(seed % 7) for seed in request.seeds]], dtype=torch.float64)
            expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
            assert group.advantages == pytest.approx(expected[0].tolist())
    step, groups, seconds = house.logged[0]
    assert step == 0
    assert groups[0].kl == [0.25] * 4
    assert set(seconds) == {"sample", "judge", "learn", "sync"}


def test_a_reward_that_raises_stops_the_step_before_the_learner_moves() -> None:
    house = House()

    def fail(groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        raise RuntimeError("in_character: no model")

    house.judge = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="in_character"):
        house.run()
    assert house.version == 0
    assert house.logged == []


def test_a_sampler_that_parts_from_the_learner_stops_the_run_after_the_step_is_logged() -> None:
    house = House()
    house.step = lambda groups: StepReport({"logp_gap": 0.02}, [[0.0] * 4] * 2)  # type: ignore[method-assign]
    with pytest.raises(TrainingDiverged, match=r"step 1: sampler and learner differ by 0\.02 nats"):
        house.run()
    assert [step for step, *_ in house.logged] == [0]
    assert not [e for e in house.events if e.startswith("checkpoint")]


@pytest.mark.parametrize(
    ("baseline", "scale", "expected"),
    [
        ("group", "none", [[-1.0, 1.0], [-2.0, 2.0]]),
        ("leave_one_out", "none", [[-2.0, 2.0], [-4.0, 4.0]]),
        # Both prompts are one character's: mean 2.5, squared distances 6.25 + 0.25 + 0.25 + 12.25 = 19; / 3.
        ("group", "character", [[x / (19 / 3) ** 0.5 for x in row] for row in ([-1, 1], [-2, 2])]),
        ("none", "whiten", [[x / (19 / 3) ** 0.5 for x in row] for row in ([-2.5, -0.5], [-0.5, 3.5])]),
    ],
)
def test_the_algorithms_baseline_and_scale_reach_the_advantages(
    baseline: Any, scale: Any, expected: list[list[float]]
) -> None:
    groups = [judged([0.0, 2.0]), judged([2.0, 6.0])]
    set_advantages(groups, CreditSettings(baseline, scale))
    for group, row in zip(groups, expected, strict=True):
        assert group.advantages == pytest.approx(row, rel=1e-3)


def test_a_missing_group_is_noticed() -> None:
    house = House()
    house.judge = lambda groups: [[Judgement(0.0, {})] * 4]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="shorter"):
        house.run()


def test_equal_rewards_give_no_advantage_and_are_marked() -> None:
    groups = [judged([0.3, 0.3, 0.3]), judged([0.0, 1.0, 2.0])]
    set_advantages(groups, CreditSettings())
    assert groups[0].advantages == pytest.approx([0, 0, 0], abs=1e-9)
    assert groups[1].advantages == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])
    assert [group.equal for group in groups] == [True, False]


@given(st.integers(0, 10**9), st.integers(0, 10**4), st.integers(0, 100))
def test_seeds_are_a_function_of_run_step_prompt_and_place(seed: int, step: int, prompt: int) -> None:
    settings = replace(SETTINGS, seed=seed)
    seeds = completion_seeds(settings, step, prompt)
    assert len(seeds) == 4
    assert all(0 <= s < 2**64 for s in seeds)
    # A larger group begins with the smaller one's seeds; nothing else shares any.
    assert completion_seeds(replace(settings, group_size=6), step, prompt)[:4] == seeds
    others = [
        (settings, step + 1, prompt),
        (settings, step, prompt + 1),
        (replace(settings, seed=seed + 1), step, prompt),
    ]
    assert not set(seeds) & {s for other in others for s in completion_seeds(*other)}


def test_no_two_completions_of_a_run_share_a_seed() -> None:
    seeds = [s for step in range(200) for i in range(16) for s in completion_seeds(SETTINGS, step, i)]
    assert len(set(seeds)) == len(seeds)

"""The loop with plain classes in the workers' places: who is called, when, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlrp.rl.learner import StepReport, TrainGroup, TrainingDiverged
from rlrp.runtime.credit import CreditSettings, set_advantages
from rlrp.runtime.loop import Batch, LoopSettings, train

from .made import judged

SETTINGS = LoopSettings(steps=3)


class House:
    """Every part of a run in one place, so that the order of what happens to them is one list."""

    refs: tuple[Any, ...] = ()

    def __init__(self, settings: LoopSettings = SETTINGS, start: int = 0, prompts: int = 2):
        self.settings, self.prompts = settings, prompts
        self.version = start
        self.events: list[Any] = []
        self.trained: list[list[TrainGroup]] = []
        self.logged: list[tuple[int, Batch, dict[str, float]]] = []
        self.report = StepReport({"loss": 0.0}, [[0.25] * 4] * prompts)
        self.ages = 0.0

    def run(self, start: int = 0) -> House:
        train(self.settings, self, self, self, self.checkpoint, start)
        return self

    def start_next(self) -> None:
        self.events.append("next")

    def publish(self, version: int, weights: Any, checksum: str) -> None:
        assert weights == f"weights {version}" and checksum == f"sum {version}"
        self.events.append(f"publish {version}")

    def take(self, step: int) -> Batch:
        self.events.append(f"take {step}")
        groups = [judged([1.0, 2.0, 3.0, float(step)], id=f"{step}/{i}") for i in range(self.prompts)]
        return Batch(groups, [], {"staleness_max": self.ages}, {"sample": 1.0})

    def begin(self, groups: Sequence[TrainGroup]) -> Any:
        self.events.append("step")
        self.trained.append(list(groups))
        return self

    def result(self) -> StepReport:
        return self.report

    def meanwhile(self, pending: Any) -> StepReport:
        self.version += 1
        return pending.result()  # type: ignore[no-any-return]

    def weights(self) -> tuple[Any, str]:
        return f"weights {self.version}", f"sum {self.version}"

    def write(self, step: int, batch: Batch, report: StepReport, seconds: dict[str, float]) -> None:
        self.events.append(f"log {step}")
        self.logged.append((step, batch, seconds))

    def checkpoint(self, steps: int, batch: Batch) -> None:
        self.events.append(f"checkpoint {steps}")


def test_the_order_of_a_run() -> None:
    assert House().run().events == [
        *("publish 0",),
        *("take 0", "step", "publish 1", "next", "log 0", "checkpoint 1"),
        *("take 1", "step", "publish 2", "next", "log 1", "checkpoint 2"),
        *("take 2", "step", "publish 3", "log 2", "checkpoint 3"),
    ]


def test_a_resumed_run_goes_on_where_it_was() -> None:
    whole, resumed = House().run(), House(start=2).run(start=2)
    assert resumed.trained == whole.trained[2:]
    assert resumed.events == ["publish 2", *whole.events[-5:]]
    assert House(start=3).run(start=3).events == ["publish 3"]


def test_what_was_judged_reaches_the_learner() -> None:
    house = House().run()
    for step, groups in enumerate(house.trained):
        for group in groups:
            assert group.prompt == (1, 2, 3)
            assert group.completions == ((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3))
            rewards = torch.tensor([1.0, 2.0, 3.0, float(step)], dtype=torch.float64)
            expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
            assert group.advantages == pytest.approx(expected.tolist())
    step, batch, seconds = house.logged[0]
    assert step == 0
    assert batch.groups[0].kl == [0.25] * 4
    assert set(seconds) == {"sample", "step", "learn", "sync"}
    assert seconds["step"] >= seconds["learn"] + seconds["sync"]


def test_advantages_that_the_learner_made_are_those_that_are_logged() -> None:
    house = House(replace(SETTINGS, steps=1))
    house.report = StepReport({}, [[0.0] * 4] * 2, [[0.5] * 4, [-0.5] * 4])
    house.run()
    assert [group.advantages for group in house.logged[0][1].groups] == [[0.5] * 4, [-0.5] * 4]


def test_a_sampler_that_parts_from_the_learner_stops_the_run_after_the_step_is_logged() -> None:
    house = House()
    house.report = StepReport({"logp_gap": 0.02}, [[0.0] * 4] * 2)
    with pytest.raises(TrainingDiverged, match=r"step 1: sampler and learner differ by 0\.02 nats"):
        house.run()
    assert [step for step, *_ in house.logged] == [0]
    assert not [e for e in house.events if e.startswith("checkpoint")]
    # An older policy may differ: that is what staleness is.
    stale = House()
    stale.report, stale.ages = house.report, 1.0
    assert len(stale.run().logged) == 3


def test_a_step_without_a_finite_loss_leaves_no_checkpoint_unless_it_is_the_last() -> None:
    house = House()
    house.report = StepReport({"skipped_in_a_row": 1.0}, [[0.0] * 4] * 2)
    assert [e for e in house.run().events if e.startswith("checkpoint")] == ["checkpoint 3"]


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


def test_a_report_about_other_groups_is_noticed() -> None:
    house = House()
    house.report = StepReport({}, [[0.0] * 4])
    with pytest.raises(ValueError, match="shorter"):
        house.run()


def test_equal_rewards_give_no_advantage_and_are_marked() -> None:
    groups = [judged([0.3, 0.3, 0.3]), judged([0.0, 1.0, 2.0])]
    set_advantages(groups, CreditSettings())
    assert groups[0].advantages == pytest.approx([0, 0, 0], abs=1e-9)
    assert groups[1].advantages == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])
    assert [group.equal for group in groups] == [True, False]

"""The learner as actors: what reaches the driver, and what happens when one of them dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from rlrp.lm.adapters import LoraSettings, checksum
from rlrp.rl.learner import Learner, LearnerSettings, TrainGroup, TrainingDiverged
from rlrp.rl.zero import ZeroSettings
from rlrp.runtime import cluster
from rlrp.runtime.actors import Placement
from rlrp.runtime.learners import LearnerLost, RemoteLearner

GROUPS = [TrainGroup((1, 9, 200), ((4, 5, 6), (7, 8)), ((-5.0,) * 3, (-5.0,) * 2), (1.0, -1.0))]
EMPTY = [TrainGroup((1,), ((),), ((),), (0.0,))]


@pytest.fixture(scope="module", autouse=True)
def on_ray() -> Iterator[None]:
    cluster.connect()
    yield
    cluster.disconnect()


@pytest.fixture
def settings(tiny_folder: str) -> LearnerSettings:
    return LearnerSettings(tiny_folder, lora=LoraSettings(r=4, alpha=8), learning_rate=1e-3, threads=1)


@pytest.fixture
def start(settings: LearnerSettings, tmp_path: Path) -> str:
    """A checkpoint past the first step's check, which made-up log-probabilities would not stand."""
    learner = Learner(settings)
    learner.updates = 1
    learner.save(tmp_path / "start")
    return str(tmp_path / "start")


def test_it_is_the_plain_learner_and_its_weights_stay_off_the_driver(settings: LearnerSettings, start: str) -> None:
    here, there = Learner(settings), RemoteLearner(settings, Placement())
    here.load(start)
    there.load(start)
    pending = there.begin(GROUPS)
    assert len(pending.refs) == 1
    assert pending.result().metrics == pytest.approx(here.step(GROUPS).metrics, rel=1e-4, abs=1e-6)
    reference, sum_there = there.weights()
    assert isinstance(reference, ray.ObjectRef)
    assert checksum(ray.get(reference)) == sum_there
    with pytest.raises(TrainingDiverged, match="empty"):
        there.step(EMPTY)


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_team_survives_the_death_of_any_of_its_workers(
    settings: LearnerSettings, start: str, tmp_path: Path, victim: int
) -> None:
    pytest.importorskip("deepspeed", reason="needs rlrp[deepspeed]")
    before = dict(os.environ)
    learner = RemoteLearner(replace(settings, zero=ZeroSettings(1)), Placement(actors=2))
    learner.load(start)
    learner.step(GROUPS)
    learner.save(str(tmp_path / "one"))
    expected = learner.step(GROUPS).metrics, learner.weights()[1]
    with pytest.raises(TrainingDiverged, match="empty"):  # all raise it, and none of them is lost by that
        learner.step(EMPTY)
    pending = learner.begin(GROUPS)
    ray.kill(learner.actors[victim])
    with pytest.raises(LearnerLost):
        pending.result()
    with pytest.raises(LearnerLost):
        learner.weights()
    learner.restart()
    learner.load(str(tmp_path / "one"))
    assert (learner.step(GROUPS).metrics, learner.weights()[1]) == expected
    assert os.environ == before

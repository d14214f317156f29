"""What the driver makes of an actor's death, and under which name an actor is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError

from rlrp.runtime import learners
from rlrp.runtime.actors import Placement, cause_of, host
from rlrp.runtime.learners import LearnerLost, RemoteLearner

from .simulated import SimulatedRay, ray  # noqa: F401

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: Rollout
\tactor_id: 2f1c
\tpid: 4711
\tnamespace: d3a5
\tip: 127.0.0.1
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called.
The actor never ran - it was cancelled before it started running."""


def test_a_cause_names_process_machine_and_end_in_one_line() -> None:
    error = ActorDiedError()
    error.error_msg = DIED
    assert cause_of(error) == (
        "pid 4711 ip 127.0.0.1 The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR "
        "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file."
    )


def test_a_cause_without_facts_is_what_ray_says_first() -> None:
    assert cause_of(ActorDiedError()) == "The actor died unexpectedly before finishing this task."
    assert cause_of(ObjectLostError("ab", "owner", "stack")).startswith("Failed to retrieve object ab")
    assert cause_of(RuntimeError()) == "RuntimeError"


def test_an_actor_is_known_by_its_role() -> None:
    assert host("rollout").__name__ == "Rollout"
    assert host("rollout")(lambda: 3).make() == 3  # type: ignore[call-arg]


class Slow:
    """A learner whose calls take what ``seconds`` says."""

    takes: dict[str, float]

    def __init__(self, settings: object, team: object): ...

    def seconds(self, method: str, args: tuple[object, ...]) -> float:
        return self.takes.get(method, 0.0)

    def step(self, groups: object) -> str:
        return "done"

    def save(self, folder: str) -> None: ...


SETTINGS: Any = SimpleNamespace(zero=None)


def test_a_learner_without_limits_is_waited_for(ray: SimulatedRay, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(learners, "Learner", type("Slow", (Slow,), {"takes": {"step": 1e6, "save": 1e6}}))
    patient = RemoteLearner(SETTINGS, Placement())
    assert patient.begin([]).result() == "done"
    patient.save("folder")
    assert ray.now == 2e6


def learner(monkeypatch: pytest.MonkeyPatch, **takes: float) -> RemoteLearner:
    monkeypatch.setattr(learners, "Learner", type("Slow", (Slow,), {"takes": takes}))
    return RemoteLearner(SETTINGS, Placement(), timeout_s=60.0, start_timeout_s=90.0)


def test_a_silent_learner_is_lost(ray: SimulatedRay, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    quick = learner(monkeypatch, step=59.0)
    assert quick.begin([]).result() == "done"
    slow = learner(monkeypatch, step=61.0, save=61.0)
    pending = slow.begin([])
    # What is overlapped with the step counts: 50 of its 60 seconds are over when somebody asks.
    ray.now += 50
    assert not pending.late
    with pytest.raises(LearnerLost, match="no answer for 60 s"):
        pending.result()
    assert ray.now == 59.0 + 60.0
    slow.restart()
    with pytest.raises(LearnerLost, match="no answer for 60 s"):
        slow.save("folder")


def test_a_learner_that_finds_no_room_says_what_it_asks_for(
    ray: SimulatedRay,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = learner(monkeypatch)
    waiting._starting[0].ready_at = 100.0
    with pytest.raises(LearnerLost, match=r"not started for 90 s; each of 1 asks for 0\.5 CPUs and 0 GPUs"):
        waiting.weights()

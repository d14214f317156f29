"""Pools with a stand-in for Ray that finishes work in the worst order and lets actors die on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError, RayTaskError

from rlrp.errors import UserError
from rlrp.lm.adapters import AdapterState, checksum
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.protocols import Judgement
from rlrp.runtime import cluster
from rlrp.runtime.cluster import Judges, Placement, Pool, Rollouts, SyncFailed, WorkerLost, deal
from rlrp.runtime.workers import RolloutSettings


class Death(Exception):
    """Raised in a worker: its actor's process is gone."""


class Reference:
    def __init__(self, call: Callable[[], Any]):
        self.call = call


class Actor:
    def __init__(self, instance: Any):
        self._instance, self._dead = instance, False

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: Reference(lambda: self._do(name, *args)))

    def _do(self, name: str, *args: Any) -> Any:
        try:
            if not self._dead:
                return getattr(self._instance, name)(*args)
        except Death:
            self._dead = True
        except Exception as error:
            raise RayTaskError(name, "traceback", error) from error
        raise RayActorError


class FakeRay:
    def remote(self, kind: Any) -> Any:
        make = SimpleNamespace(remote=lambda *args: Actor(kind(*args)))
        return SimpleNamespace(options=lambda **_: make)

    def put(self, value: Any) -> Any:
        return value

    def get(self, reference: Reference) -> Any:
        return reference.call()

    def wait(self, references: list[Reference], num_returns: int) -> tuple[list[Reference], list[Reference]]:
        return references[-1:], references[:-1]


@pytest.fixture(autouse=True)
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray", FakeRay())


class Worker:
    """Squares numbers; ``deaths`` says how often a number still kills whoever gets it."""

    deaths: dict[int, int]
    started = 0
    deadly_starts: Sequence[int] = ()

    def __init__(self) -> None:
        type(self).started += 1
        if self.started in self.deadly_starts:
            raise Death

    def square(self, x: int) -> int:
        if self.deaths.get(x, 0):
            self.deaths[x] -= 1
            raise Death
        if x < 0:
            raise UserError("negative")
        return x * x


def pool(actors: int = 2, restarts: int = 3, deaths: dict[int, int] | None = None, starts: Sequence[int] = ()) -> Pool:
    kind = type("Worker", (Worker,), {"deaths": dict(deaths or {}), "started": 0, "deadly_starts": starts})
    return Pool("reward", kind, Placement(actors=actors), restarts)


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 4))
def test_results_are_in_the_order_of_the_work(work: list[int], actors: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "ray", FakeRay())
        assert pool(actors).run("square", [(x,) for x in work]) == [x * x for x in work]


def test_a_dead_actors_work_is_done_again(capsys: pytest.CaptureFixture[str]) -> None:
    workers = pool(deaths={3: 2, 5: 1})
    assert workers.run("square", [(x,) for x in range(8)]) == [x * x for x in range(8)]
    assert workers.restarts == 3
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all("reward actor" in line and "died" in line for line in lines)


def test_too_many_deaths_end_the_run_with_a_name() -> None:
    with pytest.raises(WorkerLost, match="reward actors died 4 times"):
        pool(deaths={3: 99}).run("square", [(x,) for x in range(8)])
    with pytest.raises(WorkerLost, match="reward actors died 1 times"):
        pool(deaths={3: 1}, restarts=0).run("square", [(3,)])


def test_an_actor_that_dies_while_it_starts_again_is_counted() -> None:
    workers = pool(deaths={3: 1}, starts=(3, 4))  # the first two start; their first two successors do not
    assert workers.run("square", [(3,), (4,)]) == [9, 16]
    assert workers.restarts == 3
    with pytest.raises(WorkerLost):
        pool(deaths={3: 1}, starts=range(3, 99)).run("square", [(3,)])


def test_a_workers_error_arrives_as_itself() -> None:
    with pytest.raises(UserError, match="negative"):
        pool().run("square", [(1,), (-1,)])


def test_a_broadcast_reaches_everyone_even_through_deaths() -> None:
    workers = pool(actors=3, deaths={4: 2})
    assert workers.broadcast("square", 4) == [16, 16, 16]
    assert workers.restarts == 2


class FakeRollout:
    """Holds what it is sent; says where it sampled from."""

    faulty = False
    deaths = 0

    def __init__(self, settings: RolloutSettings):
        self.held: AdapterState = {}

    def load_adapter(self, state: AdapterState) -> str:
        self.held = {"w": state["w"] + 1} if self.faulty else state
        return checksum(self.held)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        if type(self).deaths:
            type(self).deaths -= 1
            raise Death
        version = float(self.held["w"])
        return [[Completion(r.prompt, (version,), str(seed), "stop") for seed in r.seeds] for r in requests]


STATE: AdapterState = {"w": torch.tensor([7.0])}


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> tuple[Rollouts, type[FakeRollout]]:
    kind = type("FakeRollout", (FakeRollout,), {})
    monkeypatch.setattr(cluster, "RolloutWorker", kind)
    return Rollouts(RolloutSettings("tiny"), Placement(actors=3), 3), kind


def test_groups_come_back_in_the_order_of_their_requests(rollouts: tuple[Rollouts, type[FakeRollout]]) -> None:
    group, _ = rollouts
    group.sync(STATE, checksum(STATE))
    requests = [SampleRequest((1,) * n, (n, n + 100)) for n in (5, 1, 9, 3, 3)]
    answers = group.sample(requests, SamplingSettings())
    assert [[(len(c.ids), c.text) for c in row] for row in answers] == [
        [(len(r.prompt), str(seed)) for seed in r.seeds] for r in requests
    ]


def test_a_revived_actor_gets_the_weights_before_it_samples(rollouts: tuple[Rollouts, type[FakeRollout]]) -> None:
    group, kind = rollouts
    group.sync(STATE, checksum(STATE))
    kind.deaths = 2
    answers = group.sample([SampleRequest((1,), (n,)) for n in range(4)], SamplingSettings())
    assert {c.logps for row in answers for c in row} == {(7.0,)}
    assert group.restarts == 2


def test_an_actor_that_holds_other_weights_stops_the_run(rollouts: tuple[Rollouts, type[FakeRollout]]) -> None:
    group, kind = rollouts
    kind.faulty = True
    with pytest.raises(SyncFailed, match="rollout actor 0 holds weights"):
        group.sync(STATE, checksum(STATE))


def test_judgements_come_back_in_the_order_of_their_groups() -> None:
    class Reward:
        def judge(self, groups: Sequence[Sequence[Any]]) -> list[list[Judgement]]:
            return [[Judgement(float(sample), {}) for sample in group] for group in groups]

    groups: Any = [[1, 2], [3], [4, 5, 6], [7]]
    judged = Judges(Reward, Placement(actors=2), 0).judge(groups)
    assert [[j.total for j in group] for group in judged] == groups


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 8))
def test_deal(sizes: list[int], hands: int) -> None:
    shares = deal(sizes, hands)
    assert sorted(i for share in shares for i in share) == list(range(len(sizes)))
    assert len(shares) == min(hands, len(sizes))
    assert all(shares)
    totals = [sum(sizes[i] for i in share) for share in shares]
    if totals:  # the greedy rule: nobody is ahead by more than one item
        assert max(totals) - min(totals) <= max(sizes)


def test_deal_by_hand() -> None:
    # Largest first to whoever has least: 9 | 7 | 5, then 3 to the third (8), 3 to the second (10).
    assert deal([9, 3, 7, 5, 3], 3) == [[0], [2, 4], [1, 3]]

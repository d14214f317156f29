"""Ray: starting or joining it, pools of actors, weights to all of them, and actors that die."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rlrp.dialogue.types import Sample
from rlrp.lm.adapters import AdapterState
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.memory import keep_freed_memory
from rlrp.protocols import Judgement, Reward
from rlrp.rl.learner import Learner, LearnerSettings, StepReport, TrainGroup
from rlrp.runtime.workers import RewardWorker, RolloutSettings, RolloutWorker


class SyncFailed(RuntimeError):
    """An actor holds other weights than it was sent."""


class WorkerLost(RuntimeError):
    """An actor died more often than ``cluster.max_restarts`` allows."""


@dataclass(frozen=True)
class Placement:
    """What one pool asks of the cluster, per actor."""

    actors: int = 1
    cpus: float = 0.5
    gpus: float = 0.0
    memory_gb: float | None = None

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory_gb:
            options["memory"] = int(self.memory_gb * 1e9)
        return options


def connect() -> None:
    """Join the cluster that RAY_ADDRESS or a submitted job names, or start Ray on this machine."""
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True, logging_level="warning")
    else:
        # Everything stays on this machine: no dashboard, no port beyond the loopback interface. The smallest object
        # store is ample: what travels is an adapter and text.
        ray.init(
            include_dashboard=False,
            log_to_driver=True,
            logging_level="error",
            object_store_memory=200 << 20,
            _node_ip_address="127.0.0.1",
        )


def disconnect() -> None:
    if ray.is_initialized():
        ray.shutdown()


def call(reference: Any) -> Any:
    """``ray.get`` that raises what the worker raised, not Ray's wrapper around it."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error


class Host:
    """The actor that holds a worker. It builds the worker in a call of its own: an error there reaches the caller as
    what it is, where one raised in an actor's constructor only says that the actor died."""

    def __init__(self, make: Callable[[], Any]):
        self.make = make

    def start(self) -> None:
        keep_freed_memory()
        self.worker = self.make()

    def do(self, method: str, *args: Any) -> Any:
        return getattr(self.worker, method)(*args)


class Pool:
    """Actors of one kind. Work goes to whoever is idle; a dead actor is started again and its work drawn again."""

    def __init__(self, name: str, make: Callable[[], Any], placement: Placement, max_restarts: int):
        self.name, self.max_restarts, self.restarts = name, max_restarts, 0
        self.host: Callable[[], Any] = lambda: ray.remote(Host).options(**placement.options()).remote(make)
        self.actors = [self.host() for _ in range(placement.actors)]
        for starting in [actor.start.remote() for actor in self.actors]:
            call(starting)

    def run(self, method: str, work: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One result per item, in order of the items, whatever order they finish in."""
        results: list[Any] = [None] * len(work)
        waiting = deque(range(len(work)))
        idle = list(range(len(self.actors)))
        busy: dict[Any, tuple[int, int]] = {}
        while waiting or busy:
            while waiting and idle:
                actor, item = idle.pop(0), waiting.popleft()
                busy[self.actors[actor].do.remote(method, *work[item])] = actor, item
            (done, *_), _ = ray.wait(list(busy), num_returns=1)
            actor, item = busy.pop(done)
            try:
                results[item] = call(done)
            except RayActorError as error:
                self.revive(actor, error)
                waiting.appendleft(item)
            idle.append(actor)
        return results

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """The same call on every actor; one result per actor. A dead actor is revived and asked again."""
        references = [actor.do.remote(method, *args) for actor in self.actors]
        results = []
        for index, reference in enumerate(references):
            while True:
                try:
                    results.append(call(reference))
                    break
                except RayActorError as error:
                    self.revive(index, error)
                    reference = self.actors[index].do.remote(method, *args)
        return results

    def revive(self, index: int, error: RayActorError) -> None:
        """Start a new actor in a dead one's place, and say so."""
        while True:
            self.restarts += 1
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            print(f"{self.name} actor {index} died ({cause}); restart {self.restarts}", file=sys.stderr, flush=True)
            if self.restarts > self.max_restarts:
                raise WorkerLost(f"{self.name} actors died {self.restarts} times: {cause}") from error
            self.actors[index] = self.host()
            try:
                call(self.actors[index].start.remote())
                return
            except RayActorError as again:
                error = again


class Rollouts(Pool):
    """Rollout actors that all hold the same, verified weights."""

    def __init__(self, settings: RolloutSettings, placement: Placement, max_restarts: int):
        self.weights: tuple[Any, str] | None = None
        super().__init__("rollout", partial(RolloutWorker, settings), placement, max_restarts)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        """Completions per request, in order; requests are dealt out so that actors get equal token counts."""
        shares = deal([len(request.prompt) for request in requests], len(self.actors))
        answers = self.run("sample", [([requests[i] for i in share], settings) for share in shares])
        groups: list[list[Completion]] = [[] for _ in requests]
        for share, answer in zip(shares, answers, strict=True):
            for i, completions in zip(share, answer, strict=True):
                groups[i] = completions
        return groups

    def sync(self, state: AdapterState, expected: str) -> None:
        """Send weights to every actor and compare what each says it holds now."""
        self.weights = ray.put(state), expected
        for index, held in enumerate(self.broadcast("load_adapter", self.weights[0])):
            _check(index, held, expected)

    def revive(self, index: int, error: RayActorError) -> None:
        while True:
            super().revive(index, error)
            if self.weights is None:
                return
            reference, expected = self.weights
            try:
                _check(index, call(self.actors[index].do.remote("load_adapter", reference)), expected)
                return
            except RayActorError as again:
                error = again


class Judges(Pool):
    """Reward actors."""

    def __init__(
        self, build: Callable[[], Reward], placement: Placement, max_restarts: int, threads: int | None = None
    ):
        super().__init__("reward", partial(RewardWorker, build, threads), placement, max_restarts)

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        shares = deal([len(group) for group in groups], len(self.actors))
        answers = self.run("judge", [([groups[i] for i in share],) for share in shares])
        judged: list[list[Judgement]] = [[] for _ in groups]
        for share, answer in zip(shares, answers, strict=True):
            for i, judgements in zip(share, answer, strict=True):
                judged[i] = judgements
        return judged


class RemoteLearner:
    """The learner as an actor, so that it can have a GPU of its own; the same methods as the plain class."""

    def __init__(self, settings: LearnerSettings, placement: Placement):
        self.actor = ray.remote(Host).options(**placement.options()).remote(partial(Learner, settings))
        call(self.actor.start.remote())

    def step(self, groups: Sequence[TrainGroup]) -> StepReport:
        report: StepReport = self._do("step", list(groups))
        return report

    def weights(self) -> tuple[AdapterState, str]:
        answer: tuple[AdapterState, str] = self._do("weights")
        return answer

    def save(self, folder: str) -> None:
        self._do("save", folder)

    def load(self, folder: str) -> None:
        self._do("load", folder)

    def _do(self, method: str, *args: Any) -> Any:
        return call(self.actor.do.remote(method, *args))


def deal(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Indices in at most ``hands`` shares of about equal total size, largest first; no share is empty."""
    shares: list[list[int]] = [[] for _ in range(min(hands, len(sizes)))]
    totals = [0] * len(shares)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        least = min(range(len(shares)), key=lambda i: (totals[i], len(shares[i])))
        shares[least].append(index)
        totals[least] += sizes[index]
    return [sorted(share) for share in shares]


def _check(index: int, held: str, expected: str) -> None:
    if held != expected:
        raise SyncFailed(f"rollout actor {index} holds weights {held[:12]}, the learner sent {expected[:12]}")

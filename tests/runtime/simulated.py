"""A stand-in for Ray with a clock of its own: calls take as long as their worker says, and actors die on request."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rlrp.runtime import actors, learners, pool
from rlrp.runtime.pool import Pool


class Death(Exception):
    """Raised in a worker: its actor's process is gone."""


class Reference:
    def __init__(self, ready_at: float, answer: Callable[[], Any]):
        self.ready_at, self.answer = ready_at, answer


def _item(whole: Reference, at: int) -> Any:
    return whole.answer()[at]


class Actor:
    """Does one call after the other; a worker's ``seconds(method, args)`` says how long one takes."""

    def __init__(self, ray: SimulatedRay, instance: Any):
        self._ray, self._instance, self._dead, self._free_at = ray, instance, False, ray.now
        self.killed = False

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any) -> Any:
            return self._begin(name, args)

        def options(num_returns: int = 1, **_: Any) -> Any:
            def parts(*args: Any) -> Any:
                whole = remote(*args)
                return [Reference(whole.ready_at, partial(_item, whole, at)) for at in range(num_returns)]

            return SimpleNamespace(remote=remote if num_returns == 1 else parts)

        return SimpleNamespace(remote=remote, options=options)

    def _begin(self, name: str, args: tuple[Any, ...]) -> Reference:
        seconds = 0.0
        worker = getattr(self._instance, "worker", None)
        worker = getattr(worker, "learner", worker)
        if name == "do" and hasattr(worker, "seconds"):
            seconds = worker.seconds(args[0], args[1:])  # type: ignore[union-attr]
        self._free_at = max(self._free_at, self._ray.now) + seconds
        outcome: list[Any] = []

        def answer() -> Any:
            if not outcome:
                outcome.append(self._do(name, args))
            kind, value = outcome[0]
            if kind == "raise":
                raise value
            return value

        reference = Reference(self._free_at, answer)
        if seconds == 0.0:
            # What takes no time has happened by the time anybody looks.
            with contextlib.suppress(RayError):
                answer()
        return reference

    def _do(self, name: str, args: tuple[Any, ...]) -> tuple[str, Any]:
        try:
            if not self._dead and not self.killed:
                values = [arg.answer() if isinstance(arg, Reference) else arg for arg in args]
                return "return", getattr(self._instance, name)(*values)
        except Death:
            self._dead = True
        except Exception as error:
            return "raise", RayTaskError(name, "traceback", error)
        return "raise", RayActorError()


class SimulatedRay:
    """``now`` moves on while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.started = 0
        self.alive = [False, True]  # of its nodes

    def remote(self, kind: Any) -> Any:
        def start(*args: Any) -> Actor:
            self.started += 1
            return Actor(self, kind(*args))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": alive} for alive in self.alive]

    def put(self, value: Any) -> Any:
        return value

    def kill(self, actor: Actor) -> None:
        actor.killed = True

    def get(self, reference: Reference, timeout: float | None = None) -> Any:
        if timeout is not None and reference.ready_at > self.now + timeout:
            self.now += timeout
            raise GetTimeoutError
        self.now = max(self.now, reference.ready_at)
        return reference.answer()

    def wait(
        self,
        references: list[Reference],
        num_returns: int = 1,
        timeout: float | None = None,
        fetch_local: bool = True,
    ) -> tuple[list[Reference], list[Reference]]:
        """Ready ones come in the worst order: the last given first."""
        target = self.now if timeout == 0 else min(reference.ready_at for reference in references)
        if timeout is not None:
            target = min(target, self.now + timeout)
        self.now = max(self.now, target)
        ready = [r for r in reversed(references) if r.ready_at <= self.now][:num_returns]
        taken = set(map(id, ready))
        return ready, [r for r in references if id(r) not in taken]


def list_schedule(calls: Sequence[tuple[float, Sequence[float]]], rollouts: int, judges: int) -> float:
    """Seconds until all is judged, with nothing lost to whoever hands it out.

    Calls go longest first to the first free of the rollout actors; what a call sampled is judged in the order in which
    it comes.

    Args:
        calls: seconds of each call, and of judging each group that it samples.
    """
    free, sampled = [0.0] * rollouts, []
    for seconds, groups in sorted(calls, key=lambda one: -one[0]):
        end = heapq.heappop(free) + seconds
        heapq.heappush(free, end)
        sampled += [(end, judging) for judging in groups]
    free, ends = [0.0] * judges, [0.0]
    for at, judging in sorted(sampled, key=lambda one: one[0]):
        ends.append(max(heapq.heappop(free), at) + judging)
        heapq.heappush(free, ends[-1])
    return max(ends)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimulatedRay:
    return simulate(monkeypatch)


def simulate(monkeypatch: pytest.MonkeyPatch) -> SimulatedRay:
    simulated = SimulatedRay()
    for module in (actors, learners, pool):
        monkeypatch.setattr(module, "ray", simulated)
    monkeypatch.setattr(learners, "_now", lambda: simulated.now)
    monkeypatch.setattr(Pool, "now", staticmethod(lambda: simulated.now))
    monkeypatch.setattr(pool.time, "sleep", lambda s: setattr(simulated, "now", simulated.now + s))
    return simulated

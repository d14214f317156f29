"""The learner as the driver sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from rlrp.errors import RunStopped
from rlrp.rl.learner import Learner, LearnerSettings, StepReport, TrainGroup
from rlrp.runtime.actors import GONE, Placement, call, cause_of, host

_now = time.monotonic


class LearnerLost(RunStopped):
    """A learner worker died or fell silent; what it held since the last checkpoint is gone."""


class PendingStep:
    """A step that was begun, and when its worker counts as lost."""

    def __init__(self, reference: Any, timeout_s: float | None = None):
        self.refs, self.timeout_s = [reference], timeout_s
        self._until = None if timeout_s is None else _now() + timeout_s

    @property
    def late(self) -> bool:
        return self._until is not None and _now() > self._until

    def result(self) -> StepReport:
        left = None if self._until is None else max(0.0, self._until - _now())
        report: StepReport = _answer(self.refs[0], left, _silence(self.timeout_s))
        return report


class RemoteLearner:
    """The learner as an actor, so that it can have a GPU of its own; the same methods as the plain class.

    Args:
        timeout_s: a call that takes longer has lost its actor.
        start_timeout_s: how long the cluster may take to make room for it, and the actor to load its model.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        placement: Placement,
        timeout_s: float | None = None,
        start_timeout_s: float | None = None,
    ):
        self.settings, self.placement = settings, placement
        self.timeout_s, self.start_timeout_s = timeout_s, start_timeout_s
        self._start()

    def _start(self) -> None:
        """Begin to start an actor; whoever calls it first waits for it."""
        kind = ray.remote(host("learner")).options(**self.placement.options(0))
        self.actor = kind.remote(partial(Learner, self.settings))
        self._starting = self.actor.start.remote()

    def begin(self, groups: Sequence[TrainGroup]) -> PendingStep:
        return PendingStep(self._started().do.remote("step", list(groups)), self.timeout_s)

    def weights(self) -> tuple[Any, str]:
        state, checksum = self._started().do.options(num_returns=2).remote("weights")
        return state, self._answer(checksum)

    def save(self, folder: str) -> None:
        self._answer(self._started().do.remote("save", folder))

    def load(self, folder: str) -> None:
        self._answer(self._started().do.remote("load", folder))

    def restart(self) -> None:
        ray.kill(self.actor)
        self._start()

    def _started(self) -> Any:
        if self._starting is not None:
            silence = (
                f"{_silence(self.start_timeout_s)} from its start; it asks for {self.placement.cpus:g} CPUs and "
                f"{self.placement.gpus:g} GPUs: `ray status` shows what there is"
            )
            _answer(self._starting, self.start_timeout_s, silence)
            self._starting = None
        return self.actor

    def _answer(self, reference: Any) -> Any:
        return _answer(reference, self.timeout_s, _silence(self.timeout_s))


def _silence(seconds: float | None) -> str:
    return f"no answer for {seconds or 0:g} s"


def _answer(reference: Any, timeout_s: float | None, silence: str) -> Any:
    try:
        return call(reference, timeout_s)
    except GetTimeoutError:
        raise LearnerLost(silence) from None
    except GONE as error:
        raise LearnerLost(cause_of(error)) from error

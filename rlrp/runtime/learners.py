"""The learner as the driver sees it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import ray

from rlrp.rl.learner import Learner, LearnerSettings, StepReport, TrainGroup
from rlrp.runtime.actors import GONE, Host, Placement, call, cause_of


class LearnerLost(RuntimeError):
    """A learner worker died; what it held since the last checkpoint is gone."""


class PendingStep:
    def __init__(self, reference: Any):
        self.refs = [reference]

    def result(self) -> StepReport:
        report: StepReport = _answer(self.refs[0])
        return report


class RemoteLearner:
    """The learner as an actor, so that it can have a GPU of its own; the same methods as the plain class."""

    def __init__(self, settings: LearnerSettings, placement: Placement):
        self.settings, self.placement = settings, placement
        self._start()

    def _start(self) -> None:
        self.actor = ray.remote(Host).options(**self.placement.options(0)).remote(partial(Learner, self.settings))
        _answer(self.actor.start.remote())

    def begin(self, groups: Sequence[TrainGroup]) -> PendingStep:
        return PendingStep(self.actor.do.remote("step", list(groups)))

    def weights(self) -> tuple[Any, str]:
        state, checksum = self.actor.do.options(num_returns=2).remote("weights")
        return state, _answer(checksum)

    def save(self, folder: str) -> None:
        _answer(self.actor.do.remote("save", folder))

    def load(self, folder: str) -> None:
        _answer(self.actor.do.remote("load", folder))

    def restart(self) -> None:
        ray.kill(self.actor)
        self._start()


def _answer(reference: Any) -> Any:
    try:
        return call(reference)
    except GONE as error:
        raise LearnerLost(cause_of(error)) from error

"""The learner as the driver sees it: one actor, or a team of them that learn together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayTaskError

from rlrp.rl.learner import Learner, LearnerSettings, StepReport, TrainGroup
from rlrp.rl.team import Team, join, open_meeting
from rlrp.runtime.actors import GONE, Host, Placement, call, cause_of

_NEWS_S = 15.0
"""How long a worker's error may be the first sign that another one has died."""


class LearnerLost(RuntimeError):
    """A learner worker died; what it held since the last checkpoint is gone."""


class Seat:
    """A worker's place in the team. It is there before the team has met, and then is its learner."""

    def __init__(self, settings: LearnerSettings, rank: int, size: int):
        self.settings, self.rank, self.size = settings, rank, size
        self.meeting: Any = None

    def open(self) -> tuple[str, int]:
        """Where the team will meet: on the first worker's node, at a port that is free there."""
        host = ray.util.get_node_ip_address()
        self.meeting = open_meeting(host, self.size)
        return host, self.meeting.port

    def sit(self, address: tuple[str, int] | None) -> None:
        """Meet the others, if there is an address for it, and load the model."""
        team = Team()
        if address is not None:
            team = join(self.meeting or address, self.rank, self.size, self.settings.device)
        self.learner = Learner(self.settings, team)

    def step(self, groups: Sequence[TrainGroup]) -> StepReport | None:
        report = self.learner.step(groups)
        return report if self.rank == 0 else None

    def weights(self) -> tuple[Any, str]:
        return self.learner.weights()

    def save(self, folder: str) -> None:
        self.learner.save(folder)

    def load(self, folder: str) -> None:
        self.learner.load(folder)


class PendingStep:
    """A step that was begun; ``refs`` are ready when it is done."""

    def __init__(self, refs: list[Any]):
        self.refs = refs

    def result(self) -> StepReport:
        """The step's report.

        Raises:
            LearnerLost: a worker died over it.
        """
        wait_for_all(self.refs)
        report: StepReport = call(self.refs[0])
        return report


class RemoteLearner:
    """A learner in ``placement.actors`` actors, each of which may have a GPU of its own.

    Folders must lie where all workers reach them.
    """

    def __init__(self, settings: LearnerSettings, placement: Placement):
        self.settings, self.placement = settings, placement
        self.actors: list[Any] = []
        self._start()

    def _start(self) -> None:
        size = self.placement.actors
        self.actors = [
            ray.remote(Host).options(**self.placement.options(rank)).remote(partial(Seat, self.settings, rank, size))
            for rank in range(size)
        ]
        wait_for_all([actor.start.remote() for actor in self.actors])
        address = None
        if self.settings.zero is not None:
            wait_for_all([opened := self.actors[0].do.remote("open")])
            address = call(opened)
        self._do("sit", address)

    def begin(self, groups: Sequence[TrainGroup]) -> PendingStep:
        """Every worker gets the whole batch, which travels once to each node."""
        batch = ray.put(list(groups))
        return PendingStep([actor.do.remote("step", batch) for actor in self.actors])

    def step(self, groups: Sequence[TrainGroup]) -> StepReport:
        return self.begin(groups).result()

    def weights(self) -> tuple[Any, str]:
        """A reference to the weights, which do not come to the driver, and their checksum."""
        first, *others = self.actors
        state, checksum = first.do.options(num_returns=2).remote("weights")
        wait_for_all([checksum, *(actor.do.remote("weights") for actor in others)])
        return state, call(checksum)

    def save(self, folder: str) -> None:
        self._do("save", folder)

    def load(self, folder: str) -> None:
        self._do("load", folder)

    def restart(self) -> None:
        """New workers for all, with the model as it was at first: load a checkpoint."""
        for actor in self.actors:
            ray.kill(actor)
        self._start()

    def _do(self, method: str, *args: Any) -> None:
        wait_for_all([actor.do.remote(method, *args) for actor in self.actors])


def wait_for_all(refs: Sequence[Any]) -> None:
    """Until all are ready.

    Raises:
        LearnerLost: a worker is gone.
        Exception: what a worker raised, if none is gone.
    """
    waiting = list(refs)
    while waiting:
        (ready, *_), waiting = ray.wait(waiting, num_returns=1, fetch_local=False)
        try:
            call(ready)
        except GONE as error:
            raise LearnerLost(cause_of(error)) from error
        except Exception as error:
            # Whoever dies takes its peers with it out of what they do together: the death is the news.
            told, _ = ray.wait(waiting, num_returns=len(waiting), timeout=_NEWS_S) if waiting else ([], [])
            for other in told:
                if (lost := _lost(other)) is not None:
                    raise lost from error
            raise


def _lost(reference: Any) -> LearnerLost | None:
    try:
        ray.get(reference)
    except GONE as error:
        return LearnerLost(cause_of(error))
    except RayTaskError:
        return None  # the same that its peers raise
    return None

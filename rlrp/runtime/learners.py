"""The learner as the driver sees it: one actor, or several that share each batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayTaskError

from rlrp.errors import RunStopped
from rlrp.rl.learner import Learner, LearnerSettings, StepReport, TrainGroup
from rlrp.rl.team import Team, join, open_meeting
from rlrp.runtime.actors import GONE, Placement, call, cause_of, check_nodes, host

_now = time.monotonic

_NEWS_S = 15.0
"""How long a worker's error may be the first sign that another one has died."""


class LearnerLost(RunStopped):
    """A learner worker died or fell silent; what it held since the last checkpoint is gone."""


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
    """A step that was begun, and when its workers count as lost; ``refs`` are ready when it is done."""

    def __init__(self, refs: list[Any], timeout_s: float | None = None):
        self.refs, self.timeout_s = refs, timeout_s
        self._until = None if timeout_s is None else _now() + timeout_s

    @property
    def late(self) -> bool:
        return self._until is not None and _now() > self._until

    def result(self) -> StepReport:
        """The step's report.

        Raises:
            LearnerLost: a worker died over it, or did not answer in time.
        """
        left = None if self._until is None else max(0.0, self._until - _now())
        wait_for_all(self.refs, left, f"no answer for {self.timeout_s:g} s" if self.timeout_s else "")
        report: StepReport = call(self.refs[0])
        return report


class RemoteLearner:
    """A learner in ``placement.actors`` actors, each of which may have a GPU of its own.

    Folders must lie where all workers reach them.

    Args:
        timeout_s: a call that takes longer has lost its actor.
        start_timeout_s: how long the cluster may take to make room for the actors, and they to load the model.
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
        self.actors: list[Any] = []
        self._start()

    def _start(self) -> None:
        """Begin to start the actors; whoever calls them first waits for them."""
        size = self.placement.actors
        kind = host("learner")
        self.actors = [
            ray.remote(kind).options(**self.placement.options(rank)).remote(partial(Seat, self.settings, rank, size))
            for rank in range(size)
        ]
        self._starting = [actor.start.remote() for actor in self.actors]

    def _started(self) -> list[Any]:
        if not self._starting:
            return self.actors
        place = self.placement
        silence = (
            f"not started for {self.start_timeout_s or 0:g} s; each of {place.actors} asks for {place.cpus:g} CPUs and "
            f"{place.gpus:g} GPUs: `ray status` shows what there is"
        )
        wait_for_all(self._starting, self.start_timeout_s, silence)
        address = None
        if self.settings.zero is not None:
            opened = self.actors[0].do.remote("open")
            wait_for_all([opened], self.start_timeout_s, silence)
            address = call(opened)
        wait_for_all([actor.do.remote("sit", address) for actor in self.actors], self.start_timeout_s, silence)
        self._starting = []
        return self.actors

    def begin(self, groups: Sequence[TrainGroup]) -> PendingStep:
        """Every worker gets the whole batch, which travels once to each node."""
        actors, batch = self._started(), ray.put(list(groups))
        return PendingStep([actor.do.remote("step", batch) for actor in actors], self.timeout_s)

    def step(self, groups: Sequence[TrainGroup]) -> StepReport:
        return self.begin(groups).result()

    def weights(self) -> tuple[Any, str]:
        """A reference to the weights, which do not come to the driver, and their checksum."""
        first, *others = self._started()
        state, checksum = first.do.options(num_returns=2).remote("weights")
        self._wait([checksum, *(actor.do.remote("weights") for actor in others)])
        return state, call(checksum)

    def save(self, folder: str) -> None:
        self._wait([actor.do.remote("save", folder) for actor in self._started()])

    def load(self, folder: str) -> None:
        self._wait([actor.do.remote("load", folder) for actor in self._started()])

    def restart(self) -> None:
        """New workers for all, with the model as it was at first: load a checkpoint."""
        for actor in self.actors:
            ray.kill(actor)
        check_nodes()
        self._start()

    def _wait(self, refs: Sequence[Any]) -> None:
        wait_for_all(refs, self.timeout_s, f"no answer for {self.timeout_s or 0:g} s")


def wait_for_all(refs: Sequence[Any], timeout_s: float | None = None, silence: str = "") -> None:
    """Until all are ready.

    Raises:
        LearnerLost: a worker is gone, or one has not answered for ``timeout_s``, which ``silence`` says.
        Exception: what a worker raised, if none is gone.
    """
    waiting, until = list(refs), None if timeout_s is None else _now() + timeout_s
    while waiting:
        left = None if until is None else max(0.0, until - _now())
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=left, fetch_local=False)
        if not ready:
            raise LearnerLost(silence)
        try:
            call(ready[0])
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

"""The two pools of a run: rollout actors that all hold verified weights, and reward actors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ray.exceptions import ObjectLostError

from rlrp.errors import RunStopped
from rlrp.protocols import Reward
from rlrp.runtime.actors import Placement, cause_of
from rlrp.runtime.judges import RewardWorker
from rlrp.runtime.learners import LearnerLost
from rlrp.runtime.pool import Faults, Pool, Slot, Task
from rlrp.runtime.workers import RolloutSettings, RolloutWorker


class SyncFailed(RunStopped):
    """An actor holds other weights than it was sent."""


class Rollouts(Pool):
    """Rollout actors. Each takes the newest weights before it takes work, and says what it holds then."""

    def __init__(self, settings: RolloutSettings, placement: Placement, faults: Faults):
        self.weights: tuple[int, Any, str] | None = None
        super().__init__("rollout", partial(RolloutWorker, settings), placement, faults)

    def publish(self, version: int, state: Any, checksum: str) -> None:
        """New weights for everybody: a reference to them, so that they go from store to store, not through here."""
        self.weights = version, state, checksum
        self._hand_out()

    def prepare(self, slot: Slot) -> Any:
        # The same number may come twice with other weights, when a learner is lost and begins again.
        if self.weights is None or slot.about is self.weights:
            return None
        slot.about = self.weights
        return slot.actor.do.remote("load_adapter", self.weights[1])

    def prepared(self, slot: Slot, answer: Any) -> None:
        version, _, checksum = slot.about
        if answer != checksum:
            raise SyncFailed(
                f"rollout actor {slot.index} holds weights {answer[:12]}, the learner sent {checksum[:12]}"
            )
        slot.holds = version

    def gone(self, slot: Slot, error: Exception) -> None:
        if slot.state != "preparing" or not isinstance(error, ObjectLostError):
            return super().gone(slot, error)
        # The actor is there, what it was to load is not, and lay on the learner's node alone: nobody can load it.
        asked, slot.about = slot.about, None
        slot.state, slot.reference, slot.since = "idle", None, self.now()
        if self.weights is not None and asked is self.weights:
            step, self.weights = self.weights[0], None
            raise LearnerLost(f"the weights of step {step} are lost: {cause_of(error)}") from error

    def _next(self) -> Task | None:
        return super()._next() if self.weights is not None else None


def reward_pool(build: Callable[[], Reward], placement: Placement, faults: Faults, threads: int | None = None) -> Pool:
    """Reward actors, each with a reward of its own."""
    return Pool("reward", partial(RewardWorker, build, threads), placement, faults)

"""The two pools of a run: rollout actors that all hold verified weights, and reward actors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rlrp.protocols import Reward
from rlrp.runtime.actors import Placement
from rlrp.runtime.pool import Faults, Pool, Slot, Task
from rlrp.runtime.workers import RewardWorker, RolloutSettings, RolloutWorker


class SyncFailed(RuntimeError):
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
        if self.weights is None or slot.holds == self.weights[0]:
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

    def _next(self) -> Task | None:
        return super()._next() if self.weights is not None else None


def reward_pool(build: Callable[[], Reward], placement: Placement, faults: Faults, threads: int | None = None) -> Pool:
    """Reward actors, each with a reward of its own."""
    return Pool("reward", partial(RewardWorker, build, threads), placement, faults)

"""Workers with faults. What a fault strikes at is in the environment, which the workers inherit."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlrp.lm.adapters import AdapterState
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.runtime.batches import completion_seeds
from rlrp.runtime.learners import Seat
from rlrp.runtime.workers import RolloutWorker

DRAW, ONCE, SECONDS = "FAULTY_DRAW", "FAULTY_ONCE", "FAULTY_SECONDS"


class DyingRollout(RolloutWorker):
    """Dies over one draw, whoever samples it."""

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        if any(r.seeds == completion_seeds(0, int(os.environ[DRAW]), len(r.seeds)) for r in requests):
            os._exit(1)
        return super().sample(requests, settings)


class SlowWeights(RolloutWorker):
    """Weights take seconds to arrive, as from a busy object store."""

    def load_adapter(self, state: AdapterState) -> str:
        time.sleep(float(os.environ[SECONDS]))
        return super().load_adapter(state)


class HangingLearner(Seat):
    """Falls silent in its third update, once."""

    def step(self, groups: Any) -> Any:
        once = Path(os.environ[ONCE])
        if self.learner.updates == 2 and not once.exists():
            once.touch()
            time.sleep(1e6)
        return super().step(groups)

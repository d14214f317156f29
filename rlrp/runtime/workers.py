"""The workers as plain classes: they run in a test without Ray, and Ray wraps them in ``cluster``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rlrp.dialogue.types import Sample
from rlrp.lm.adapters import AdapterState
from rlrp.lm.engines import make_engine
from rlrp.lm.engines.settings import EngineSettings
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.protocols import Judgement, Reward

RolloutSettings = EngineSettings
"""A rollout worker is told what its engine is."""


class RolloutWorker:
    """Holds an engine that samples from the policy's weights."""

    def __init__(self, settings: RolloutSettings):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.engine = make_engine(settings)

    def load_adapter(self, state: AdapterState) -> str:
        """Take new weights; the checksum of what is held now goes back to whoever sent them."""
        return self.engine.load(state)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        return self.engine.sample(requests, settings)


class RewardWorker:
    """Holds the composite reward and judges groups."""

    def __init__(self, build: Callable[[], Reward], threads: int | None = None):
        if threads:
            torch.set_num_threads(threads)
        self.reward = build()

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        return self.reward.judge(groups)

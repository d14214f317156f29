"""The reward worker as a plain class. Nothing is imported with it that its terms do not need: of rules alone there are
many actors, and torch and transformers would cost each of them 0.5 GB and four seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from rlrp.dialogue.types import Sample
from rlrp.protocols import Judgement, Reward


class RewardWorker:
    """Holds the composite reward and judges groups."""

    def __init__(self, build: Callable[[], Reward], threads: int | None = None):
        self.reward = build()
        if threads and (torch := sys.modules.get("torch")):  # terms that need it load it with their models
            torch.set_num_threads(threads)

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        return self.reward.judge(groups)

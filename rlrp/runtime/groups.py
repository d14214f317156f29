"""The unit of work of a run: one prompt with its completions, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlrp.dialogue.types import Sample
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion
from rlrp.protocols import Judgement
from rlrp.rl.learner import TrainGroup


@dataclass
class Group:
    """One prompt with its completions, and what became of them."""

    prompt: Prompt
    completions: list[Completion]
    judgements: list[Judgement] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    """What each completion is worth in all: its judgement's total and its overlong punishment."""
    overlong: list[float] = field(default_factory=list)
    """The punishment of each completion's length, 0 or less; none where the run has no such punishment."""
    advantages: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    equal: bool = False

    def samples(self) -> list[Sample]:
        return [self.prompt.sample(c.text, finished=c.finish == "stop") for c in self.completions]

    def training(self) -> TrainGroup:
        return TrainGroup(
            self.prompt.ids,
            tuple(completion.ids for completion in self.completions),
            tuple(completion.logps for completion in self.completions),
            tuple(self.advantages),
            rewards=tuple(
                ((max(0, len(completion.ids) - 1), reward),)
                for completion, reward in zip(self.completions, self.rewards, strict=False)
            ),
            character=self.prompt.card_id,
        )

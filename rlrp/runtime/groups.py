"""The unit of work of a run: one prompt with its completions, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rlrp.dialogue.types import Message, Sample
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion
from rlrp.protocols import Judgement
from rlrp.rl.batch import Rewards, TrainGroup


@dataclass
class Group:
    """One prompt with its completions, and what became of them."""

    prompt: Prompt
    completions: list[Completion]
    judgements: list[Judgement] = field(default_factory=list)
    """One a completion; before their totals are made, one a sample."""
    turn_totals: list[list[float | None]] = field(default_factory=list)
    """Of completions that are conversations, what each reply was given; None: not judged."""
    rewards: list[float] = field(default_factory=list)
    """What each completion is worth in all: its judgement's total and its overlong punishment."""
    overlong: list[float] = field(default_factory=list)
    """The punishment of each completion's length, 0 or less; none where the run has no such punishment."""
    advantages: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    equal: bool = False

    def samples(self) -> list[Sample]:
        """What is to be judged: a completion, or those of its replies that are."""
        return [
            sample
            for completion in self.completions
            for at, sample in enumerate(self.replies(completion))
            if not completion.turns or completion.turns[at].judged
        ]

    def replies(self, completion: Completion) -> list[Sample]:
        """Each reply of a completion with all that was said before it; one that is no conversation has one."""
        if not completion.turns:
            return [self.prompt.sample(completion.text, finished=completion.finish == "stop")]
        said, found = list(self.prompt.messages), []
        for turn in completion.turns:
            said += [Message("user", turn.user)] if turn.user else []
            found.append(Sample(self.prompt.card, tuple(said), turn.reply, turn.finished))
            said.append(Message("assistant", turn.reply))
        return found

    def take(self, judgements: Sequence[Judgement]) -> None:
        """Keep what was said of ``samples``; a completion of which several replies were judged gets their mean.

        Raises:
            ValueError: there is not one judgement a sample.
        """
        wanted = sum(sum(turn.judged for turn in c.turns) or 1 for c in self.completions)
        if len(judgements) != wanted:
            raise ValueError(f"got {len(judgements)} judgements for {wanted} samples")
        left = iter(judgements)
        self.judgements, self.turn_totals = [], []
        for completion in self.completions:
            given = [next(left) if turn.judged else None for turn in completion.turns] or [next(left)]
            self.judgements.append(mean_judgement([judgement for judgement in given if judgement is not None]))
            self.turn_totals.append([None if judgement is None else judgement.total for judgement in given])

    def training(self) -> TrainGroup:
        masked = any(completion.spoken is not None for completion in self.completions)
        return TrainGroup(
            self.prompt.ids,
            tuple(completion.ids for completion in self.completions),
            tuple(completion.logps for completion in self.completions),
            tuple(self.advantages),
            tuple(c.spoken or (True,) * len(c.ids) for c in self.completions) if masked else (),
            rewards=tuple(map(self._payments, range(len(self.rewards)))),
            character=self.prompt.card_id,
        )

    def _payments(self, at: int) -> Rewards:
        """Where a completion is paid: at its end; one of which several replies were judged after each of them, in
        shares that add up to its reward, and what its length costs at the end."""
        completion, reward = self.completions[at], self.rewards[at]
        end = max(0, len(completion.ids) - 1)
        totals = self.turn_totals[at] if completion.turns else []
        judged = [(t.end - 1, x) for t, x in zip(completion.turns, totals, strict=True) if x is not None]
        if len(judged) < 2:
            return ((end, reward),)
        rest = reward - self.judgements[at].total
        return (*((place, total / len(judged)) for place, total in judged), *(((end, rest),) if rest else ()))


def mean_judgement(judgements: Sequence[Judgement]) -> Judgement:
    """The verdict on a conversation of which several replies were judged.

    Total, terms and parts are means of those that have the value; reasons are all of them, each with the place of its
    reply among the judged; spans, which are places in a text, are those of the last reply's.
    """
    if len(judgements) == 1:
        return judgements[0]
    terms: dict[str, float | None] = {}
    for name in judgements[0].terms:
        values = [value for j in judgements if (value := j.terms[name]) is not None]
        terms[name] = fmean(values) if values else None
    reasons: dict[str, tuple[str, ...]] = {}
    numbers: dict[str, dict[str, list[float]]] = {}
    for place, judgement in enumerate(judgements, start=1):
        for name, lines in judgement.reasons.items():
            reasons[name] = reasons.get(name, ()) + tuple(f"reply {place}: {line}" for line in lines)
        for name, parts in judgement.parts.items():
            for part, value in parts.items():
                numbers.setdefault(name, {}).setdefault(part, []).append(value)
    parts_of = {name: {part: fmean(values) for part, values in parts.items()} for name, parts in numbers.items()}
    return Judgement(fmean(j.total for j in judgements), terms, reasons, parts_of, judgements[-1].spans)

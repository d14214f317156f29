"""From draws to judged groups: what a step learns from, sampled and judged by pools of actors, ahead where allowed.

A draw is a number that names a prompt and the seeds of its completions: whoever samples it, and however often it must
be sampled again, it is the same work. With ``staleness`` 0 a step's groups are sampled by the policy that learns from
them, in the order of the draws: the same bits every time. With ``staleness`` k up to k further batches are sampled and
judged while the learner works, each group by the newest weights that its actor had; groups are taken as they become
ready, and one that is older than k steps by then is drawn again.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import SampleRequest, SamplingSettings
from rlrp.protocols import Totals
from rlrp.rl.learner import StepReport
from rlrp.runtime.actors import tell
from rlrp.runtime.credit import CreditSettings, equal_rewards
from rlrp.runtime.groups import Group
from rlrp.runtime.ledger import Entry, Outcome
from rlrp.runtime.loop import Batch, Pending
from rlrp.runtime.pool import Pool, Task, wait
from rlrp.runtime.pools import Rollouts


@dataclass(frozen=True)
class BatchSettings:
    prompts: int
    group_size: int
    sampling: SamplingSettings
    seed: int = 0
    staleness: int = 0
    """How many steps older than the policy that learns from it a group may be."""
    rounds: int = 0
    """DAPO's dynamic sampling (arXiv 2503.14476, section 3.2): how often groups whose rewards are all equal are
    replaced by further draws; 0 keeps them."""
    credit: CreditSettings = field(default_factory=CreditSettings)
    """What a completion is worth, and so what counts as equal."""


@dataclass(eq=False)
class Unit:
    """One draw on its way."""

    draw: int
    prompt: Prompt
    group: Group | None = None
    version: int = 0
    tries: int = 1
    ready: bool = False
    lost: str | None = None


class Batches:
    """Feeds the learner from a pool of rollout actors and one of reward actors."""

    def __init__(
        self,
        settings: BatchSettings,
        prompt_of: Callable[[int], Prompt],
        rollouts: Rollouts,
        judges: Pool,
        totals: Totals,
    ):
        self.settings, self.prompt_of = settings, prompt_of
        self.rollouts, self.judges, self.totals = rollouts, judges, totals
        self.units: dict[int, Unit] = {}
        self.version = self.next_draw = 0
        self.learner_restarts = 0
        self.again: list[int] = []
        self._prompts: dict[int, Prompt] = {}
        self._seconds: dict[str, float] = {}
        self._tokens, self._busy = 0, 0.0
        """Sampled since the last batch was taken, and the rollout pool's busy seconds by then."""

    # -- what the loop calls -----------------------------------------------------------------------------------------

    def publish(self, version: int, weights: Any, checksum: str) -> None:
        """The policy that rollouts sample from now on."""
        self.version = version
        self.rollouts.publish(version, weights, checksum)

    def start_next(self) -> None:
        """Have the next step's draws on their way; those of a strict step have waited for its policy."""
        self._fill(self.version, self.settings.prompts)

    def take(self, step: int) -> Batch:
        """The next batch, sampled and judged."""
        started, wanted = time.perf_counter(), self.settings.prompts
        batch = Batch([], [])
        spare: list[Group] = []
        for rounds in range(self.settings.rounds + 1):
            used = self._next(step, wanted - len(batch.groups), batch)
            for unit, group in used:
                dull = bool(self.settings.rounds) and equal_rewards([group], self.settings.credit)[0]
                (spare if dull else batch.groups).append(group)
                batch.entries.append(self._entry(unit, "equal" if dull else "trained"))
            if len(batch.groups) == wanted or rounds == self.settings.rounds:
                break
        # A batch of equal groups alone still moves the policy towards its anchor.
        batch.groups = batch.groups or spare
        batch.seconds = {**self._seconds, "wait": time.perf_counter() - started}
        batch.metrics = self._metrics(batch, step, self.rollouts.busy_seconds - self._busy)
        self._seconds, self._tokens, self._busy = {}, 0, self.rollouts.busy_seconds
        return batch

    def meanwhile(self, pending: Pending) -> StepReport:
        """What the learner comes to; until then, further batches are sampled as far as staleness allows."""
        if self.settings.staleness:
            self._fill(self.version + 1, self.settings.prompts)
        self._look_ahead()
        if self.settings.staleness:
            waiting = list(pending.refs)
            while waiting and not pending.late:
                ready = self._wait(waiting)
                waiting = [reference for reference in waiting if reference not in ready]
                self._fill(self.version + 1, self.settings.prompts)
        return pending.result()

    def _look_ahead(self) -> None:
        """Make the next step's prompts: tokenising a thousand takes a second or two, for which nobody need wait now."""
        coming = [*self.again, *range(self.next_draw, self.next_draw + self.settings.prompts)][: self.settings.prompts]
        self._prompts |= {draw: self.prompt_of(draw) for draw in coming if draw not in self._prompts}

    def state(self) -> dict[str, Any]:
        """Which draws come next, as JSON."""
        return {"next_draw": self.next_draw, "again": sorted([*self.again, *self.units])}

    def load_state(self, state: Mapping[str, Any], version: int) -> None:
        """Start from a ``state``, an empty mapping meaning from nothing; work on its way is forgotten."""
        self.rollouts.drop_all()
        self.judges.drop_all()
        self.units.clear()
        self._prompts.clear()
        self.version = version
        self.next_draw, self.again = int(state.get("next_draw", 0)), list(state.get("again", []))

    # -- draws on their way ------------------------------------------------------------------------------------------

    def _next(self, step: int, wanted: int, batch: Batch) -> list[tuple[Unit, Group]]:
        """So many groups that may be learnt from; ones that are given up or too old are entered and replaced."""
        taken: list[tuple[Unit, Group]] = []
        while len(taken) < wanted:
            self._fill(step, wanted - len(taken))
            while not (ready := self._ready(wanted - len(taken))):
                self._wait()
            for unit in ready:
                del self.units[unit.draw]
                if unit.lost is not None:
                    batch.entries.append(self._entry(unit, "quarantined"))
                    tell(
                        f"quarantined: {unit.prompt.id} (draw {unit.draw}), handed out {unit.tries} times; {unit.lost}"
                    )
                elif unit.version < step - self.settings.staleness:
                    batch.entries.append(self._entry(unit, "dropped"))
                    self.again.append(unit.draw)
                else:
                    assert unit.group is not None
                    taken.append((unit, unit.group))
        judged = [group for _, group in taken]
        samples = [group.samples() for group in judged]
        for group, judgements in zip(judged, self.totals.combine(samples, [g.judgements for g in judged]), strict=True):
            group.take(judgements)
        return taken

    def _ready(self, wanted: int) -> list[Unit]:
        """Units to take now, in the order of their draws: in strict mode all that are wanted or none."""
        if not self.settings.staleness and not all(unit.ready for unit in self.units.values()):
            return []
        ready = sorted((unit for unit in self.units.values() if unit.ready), key=lambda unit: unit.draw)
        return ready[:wanted] if self.settings.staleness else ready

    def _fill(self, step: int, wanted: int) -> None:
        """Have as many draws on their way as may be: in strict mode what the step still wants; else that and what later
        steps will want before it is too old, a batch at a time."""
        prompts, ahead = self.settings.prompts, self.settings.staleness
        if not ahead:
            if not self.units:
                self._submit(wanted)
            return
        room = wanted + (self.version + ahead - step) * prompts - len(self.units)
        while room > 0:
            self._submit(min(room, prompts))
            room -= prompts

    def _submit(self, count: int) -> None:
        units = [Unit(draw, self._prompt(draw)) for draw in self._draws(count)]
        self.units |= {unit.draw: unit for unit in units}
        shares = deal([len(unit.prompt.ids) for unit in units], self.rollouts.hands)
        self.rollouts.submit([self._sampling([units[i] for i in share]) for share in shares])

    def _prompt(self, draw: int) -> Prompt:
        made = self._prompts.pop(draw, None)
        return self.prompt_of(draw) if made is None else made

    def _draws(self, count: int) -> list[int]:
        draws = [self.again.pop(0) for _ in range(min(count, len(self.again)))]
        fresh = range(self.next_draw, self.next_draw + count - len(draws))
        self.next_draw = fresh.stop
        return [*draws, *fresh]

    def _sampling(self, units: list[Unit]) -> Task:
        settings = self.settings
        requests = [
            SampleRequest(u.prompt.ids, completion_seeds(settings.seed, u.draw, settings.group_size), u.prompt)
            for u in units
        ]
        tokens = sum(len(r.prompt) + settings.group_size * settings.sampling.max_new_tokens for r in requests)
        return Task(
            "sample",
            (requests, settings.sampling),
            cost=tokens,
            about=units,
            parts=lambda: [self._sampling([unit]) for unit in units],
        )

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _wait(self, others: Sequence[Any] = ()) -> list[Any]:
        """Until something happens; sampled groups go on to the judges."""
        started = time.perf_counter()
        doing = "sample" if self.rollouts.busy or self.rollouts.waiting else "judge"
        ready = wait([self.rollouts, self.judges], others)
        if not others:
            self._seconds[doing] = self._seconds.get(doing, 0.0) + time.perf_counter() - started
        while self.rollouts.done:
            self._sampled(self.rollouts.done.popleft())
        while self.judges.done:
            self._judged(self.judges.done.popleft())
        return ready

    def _sampled(self, task: Task) -> None:
        if task.lost is not None:
            for unit in task.about:
                unit.lost, unit.tries, unit.ready = f"rollout: {task.lost}", task.tries, True
            return
        judging = []
        for unit, completions in zip(task.about, task.result, strict=True):
            unit.group, unit.tries = Group(unit.prompt, completions), task.tries + 1
            unit.version = self.version if task.version is None else task.version
            self._tokens += sum(completion.spoken_tokens for completion in completions)
            judging.append(Task("judge", ([unit.group.samples()],), cost=len(completions), about=unit))
        self.judges.submit(judging)

    def _judged(self, task: Task) -> None:
        unit = task.about
        unit.ready = True
        unit.tries += task.tries
        if task.lost is not None:
            unit.lost = f"reward: {task.lost}"
        else:
            (unit.group.judgements,) = task.result

    # -- accounts ----------------------------------------------------------------------------------------------------

    def _entry(self, unit: Unit, outcome: Outcome) -> Entry:
        return Entry(unit.draw, unit.prompt.id, unit.version, unit.tries, outcome, unit.lost)

    def _metrics(self, batch: Batch, step: int, busy: float) -> dict[str, float]:
        outcomes = [entry.outcome for entry in batch.entries]
        ages = [step - entry.version for entry in batch.entries if entry.outcome == "trained"] or [0]
        metrics = {
            "staleness": sum(ages) / len(ages),
            "staleness_max": float(max(ages)),
            "dropped": float(outcomes.count("dropped")),
            "quarantined": float(outcomes.count("quarantined")),
            "restarts/rollout": float(self.rollouts.restarts),
            "restarts/reward": float(self.judges.restarts),
            "restarts/learner": float(self.learner_restarts),
            "queue/ready": float(sum(unit.ready for unit in self.units.values())),
            "queue/sampling": float(sum(unit.group is None for unit in self.units.values())),
            "queue/judging": float(sum(u.group is not None and not u.ready for u in self.units.values())),
        }
        if self.settings.rounds:
            metrics["resampled"] = float(outcomes.count("equal"))
        if busy > 0:
            metrics["tokens_per_second/rollout"] = self._tokens / busy
        return metrics


def completion_seeds(seed: int, draw: int, count: int) -> tuple[int, ...]:
    """One seed per completion, so that what is drawn depends neither on batching nor on the number of actors."""
    keys = (f"{seed}/{draw}/{g}".encode() for g in range(count))
    return tuple(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) for key in keys)


def deal(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """Indices in at most ``hands`` shares of about equal total size, largest first; no share is empty."""
    shares: list[list[int]] = [[] for _ in range(min(hands, len(sizes)))]
    least = [(0, 0, number) for number in range(len(shares))]
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        total, count, number = least[0]
        shares[number].append(index)
        heapq.heapreplace(least, (total + sizes[index], count + 1, number))
    return [sorted(share) for share in shares]

"""A pool of actors: work is handed out longest first, a dead or silent actor is replaced and its work done again.

There are no threads. Whoever waits (:func:`wait`) collects every pool's references, and each pool takes in what is
ready, hands out what waits and looks at the clock.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import ray

from rlrp.errors import RunStopped
from rlrp.runtime.actors import GONE, Placement, call, cause_of, check_nodes, host, tell

_RECENT = 64
"""Finished tasks that tell how long one takes."""
_SURE = 4
"""With fewer nobody is called a straggler."""
_PAUSE = 1.0
"""Seconds between two looks at the clock."""


class WorkerLost(RunStopped):
    """Actors of a pool die without getting any work done."""


@dataclass(frozen=True)
class Faults:
    """What a pool puts up with."""

    max_restarts: int = 8
    """Restarts in a row in one place without any work of the pool done in between."""
    max_tries: int = 3
    """Actors that one task may take with it before it is given up."""
    timeout_s: float | None = None
    """A task that takes longer has lost its actor."""
    start_timeout_s: float = 1800.0
    """How long a pool may be without any actor: nodes come up, models load."""
    straggler: float | None = 3.0
    """A task that takes so many times what its like take is also given to an idle actor; the first answer counts."""
    idle_s: float = 120.0
    """An actor beyond the configured number is let go when it has had nothing to do for so long."""


@dataclass(eq=False)
class Task:
    """One call for some actor of the pool to make."""

    method: str
    args: tuple[Any, ...]
    cost: float = 1.0
    """How long it will take, in any unit: the longest is handed out first."""
    about: Any = None
    """The caller's own note."""
    parts: Callable[[], list[Task]] | None = None
    """The same work in smaller tasks, to find out which part kills its actors."""
    tries: int = 0
    """Actors lost over it."""
    result: Any = None
    version: int | None = None
    """Of the weights held by the actor that did it."""
    lost: str | None = None
    """Why it was given up."""
    over: bool = False
    """Nobody waits for it any more: it is done, given up or dropped."""
    at_it: int = 0
    """Actors that work on it now."""


@dataclass(eq=False)
class Slot:
    """A place of the pool and the actor that fills it now."""

    index: int
    actor: Any = None
    state: Literal["starting", "preparing", "idle", "busy"] = "starting"
    reference: Any = None
    task: Task | None = None
    since: float = 0.0
    holds: int | None = None
    """Version of the weights it holds, for actors that hold some."""
    about: Any = None
    """What its actor was last asked to prepare."""


class Pool:
    """Actors of one kind. ``done`` collects finished and given-up tasks until somebody takes them."""

    now = staticmethod(time.monotonic)

    def __init__(self, name: str, make: Callable[[], Any], placement: Placement, faults: Faults):
        self.name, self.make, self.placement, self.faults = name, make, placement, faults
        self.done: deque[Task] = deque()
        self.restarts = 0
        self._in_a_row: Counter[int] = Counter()
        self._at_work = 0
        self._worked, self._began = 0.0, 0.0
        self._number = itertools.count()
        self._waiting: list[tuple[float, int, Task]] = []
        self._rates: deque[float] = deque(maxlen=_RECENT)
        self._alive_at = self.now()
        self.slots = [self._start(Slot(i)) for i in range(self.placement.actors)]

    # -- work ------------------------------------------------------------------------------------------------------

    @property
    def hands(self) -> int:
        """Among how many actors a batch of work is worth dividing."""
        return self.placement.most or self.placement.actors

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> int:
        return sum(slot.task is not None and not slot.task.over for slot in self.slots)

    @property
    def busy_seconds(self) -> float:
        """How long any of its actors has been at work."""
        return self._worked + (self.now() - self._began if self._at_work else 0.0)

    def submit(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            heapq.heappush(self._waiting, (-task.cost, next(self._number), task))
        self._hand_out()

    def drop_all(self) -> None:
        """Forget all work; what actors are at ends without anybody listening."""
        for task in [*(task for *_, task in self._waiting), *(slot.task for slot in self.slots if slot.task)]:
            task.over = True
        self._waiting.clear()
        self.done.clear()

    def references(self) -> dict[Any, Slot]:
        """What to wait for."""
        return {slot.reference: slot for slot in self.slots if slot.reference is not None}

    def take_in(self, slot: Slot, reference: Any) -> None:
        """What a slot was asked is answered. What its worker raised is raised here."""
        if slot.reference != reference:
            return  # its actor was replaced in the meantime
        try:
            answer = call(slot.reference)
        except GONE as error:
            self.gone(slot, error)
        else:
            self._answered(slot, answer)
            self._give(slot)

    def look_at_clock(self) -> None:
        """Replace silent actors, help out stragglers, grow and shrink."""
        now = self.now()
        limit = self.faults.timeout_s
        for slot in list(self.slots):
            if limit and slot.state in ("busy", "preparing") and now - slot.since > limit:
                self._replace(slot, f"no answer for {limit:g} s")
        if any(slot.state != "starting" for slot in self.slots):
            self._alive_at = now
        elif now - self._alive_at > self.faults.start_timeout_s:
            raise WorkerLost(
                f"no {self.name} actor has started for {self.faults.start_timeout_s:g} s; each asks for "
                f"{self.placement.cpus:g} CPUs and {self.placement.gpus:g} GPUs: `ray status` shows what there is"
            )
        self._grow_or_shrink(now)
        self._hand_out()

    # -- slots -----------------------------------------------------------------------------------------------------

    def prepare(self, slot: Slot) -> Any:
        """A reference to what an idle actor must do before it may work; None: nothing."""
        return None

    def prepared(self, slot: Slot, answer: Any) -> None:
        """What ``prepare`` asked for is done."""

    def gone(self, slot: Slot, error: Exception) -> None:
        """An actor is lost, or what it was sent or answered."""
        self._replace(slot, cause_of(error))

    def _actor(self, index: int) -> Any:
        return ray.remote(host(self.name)).options(**self.placement.options(index)).remote(self.make)

    def _start(self, slot: Slot) -> Slot:
        slot.actor = self._actor(slot.index)
        slot.state, slot.task, slot.holds, slot.about, slot.since = "starting", None, None, None, self.now()
        slot.reference = slot.actor.start.remote()
        return slot

    def _answered(self, slot: Slot, answer: Any) -> None:
        if slot.state == "preparing":
            self.prepared(slot, answer)
        elif slot.state == "busy" and slot.task is not None:
            self._finish(slot, slot.task, answer)
        slot.state, slot.task, slot.reference, slot.since = "idle", None, None, self.now()

    def _leave(self, task: Task) -> None:
        """An actor is at a task no longer."""
        task.at_it -= 1
        self._at_work -= 1
        if not self._at_work:
            self._worked += self.now() - self._began

    def _finish(self, slot: Slot, task: Task, answer: Any) -> None:
        self._leave(task)
        self._in_a_row.clear()
        self._rates.append((self.now() - slot.since) / max(task.cost, 1e-9))
        if not task.over:
            task.over, task.result, task.version = True, answer, slot.holds
            self.done.append(task)

    def _replace(self, slot: Slot, cause: str) -> None:
        """Start a new actor in a lost one's place, say so, and put its work back."""
        self.restarts += 1
        self._in_a_row[slot.index] += 1
        tell(f"{self.name} actor {slot.index} died ({cause}); restart {self.restarts}")
        ray.kill(slot.actor)
        if slot.task is not None:
            self._leave(slot.task)
            slot.task.tries += 1
            if not slot.task.over and not slot.task.at_it:
                self._again(slot.task, cause)
        # By place: a node may take any number of actors with it at once.
        if (times := self._in_a_row[slot.index]) > self.faults.max_restarts:
            raise WorkerLost(f"{self.name} actors died {times} times in a row with nothing done: {cause}")
        check_nodes()
        self._start(slot)

    def _again(self, task: Task, cause: str) -> None:
        """Put a task back; one of several parts that has taken two actors goes back in parts."""
        parts = task.parts() if task.parts and task.tries > 1 else []
        if len(parts) > 1:
            task.over = True
            for part in parts:
                part.tries = 1
            again = parts
        elif task.tries < self.faults.max_tries:
            again = [task]
        else:
            task.over, task.lost, again = True, cause, []
            self.done.append(task)
        for one in again:
            heapq.heappush(self._waiting, (-one.cost, next(self._number), one))

    def _hand_out(self) -> None:
        """Give idle actors work: what waits, else what another is late with."""
        idle = [slot for slot in self.slots if slot.state == "idle" and not self._give(slot)]
        for slot in idle:
            if (task := self._straggler()) is None:
                break
            self._set_to(slot, task)

    def _give(self, slot: Slot) -> bool:
        """Give an idle actor what it must prepare or the next task; whether there was any."""
        if (reference := self.prepare(slot)) is not None:
            slot.state, slot.reference, slot.since = "preparing", reference, self.now()
        elif self._waiting and (task := self._next()) is not None:
            self._set_to(slot, task)
        else:
            return False
        return True

    def _set_to(self, slot: Slot, task: Task) -> None:
        task.at_it += 1
        self._at_work += 1
        if self._at_work == 1:
            self._began = self.now()
        slot.state, slot.task, slot.since = "busy", task, self.now()
        slot.reference = slot.actor.do.remote(task.method, *task.args)

    def _next(self) -> Task | None:
        while self._waiting:
            task = heapq.heappop(self._waiting)[-1]
            if not task.over:
                return task
        return None

    def _straggler(self) -> Task | None:
        """The task that is furthest beyond what its like take and that only one actor is at."""
        if self.faults.straggler is None or len(self._rates) < _SURE:
            return None
        usual, now = median(self._rates), self.now()
        late = [
            (lateness, slot.index, slot.task)
            for slot in self.slots
            if slot.task and not slot.task.over and slot.task.at_it == 1
            if (lateness := (now - slot.since) / (usual * slot.task.cost + _PAUSE)) > self.faults.straggler
        ]
        return max(late)[-1] if late else None

    def _grow_or_shrink(self, now: float) -> None:
        """Ask for another actor for every waiting task, up to the most; let those go that stand idle."""
        base, most = self.placement.actors, self.placement.most or self.placement.actors
        if len(self.slots) < most:
            starting = sum(slot.state == "starting" for slot in self.slots)
            for _ in range(min(most - len(self.slots), len(self._waiting) - starting)):
                self.slots.append(self._start(Slot(max(slot.index for slot in self.slots) + 1)))
        for slot in self.slots[base:]:
            if slot.state == "idle" and not self._waiting and now - slot.since > self.faults.idle_s:
                ray.kill(slot.actor)
                self.slots.remove(slot)


def wait(pools: Sequence[Pool], others: Sequence[Any] = ()) -> list[Any]:
    """Wait until something is ready, or for a moment; pools take in what is theirs, the rest of what is ready returns.

    Raises:
        WorkerLost: a pool cannot go on.
        Exception: what a worker raised.
    """
    owners = {reference: (pool, slot) for pool in pools for reference, slot in pool.references().items()}
    references = [*others, *owners]
    if references:
        ready, _ = ray.wait(references, num_returns=1, timeout=_PAUSE, fetch_local=False)
        if ready and len(references) > 1:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
    else:
        ready = []
        time.sleep(_PAUSE)
    for reference in ready:
        if reference in owners:
            pool, slot = owners[reference]
            pool.take_in(slot, reference)
    for pool in pools:
        pool.look_at_clock()
    return [reference for reference in ready if reference not in owners]

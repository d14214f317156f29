"""Pools on a simulated clock: who gets what, and what deaths, silence and slowness do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.errors import UserError
from rlrp.runtime.actors import ClusterLost, Placement
from rlrp.runtime.pool import Faults, Pool, Task, WorkerLost, wait

from .simulated import Death, SimulatedRay, ray, simulate  # noqa: F401


class Worker:
    """Squares numbers, a second each; ``deaths`` says how often a number still kills whoever gets it."""

    deaths: dict[int, int]
    slow: dict[int, float]
    started = 0
    deadly_starts: Sequence[int] = ()

    def __init__(self) -> None:
        type(self).started += 1
        if self.started in self.deadly_starts:
            raise Death

    def seconds(self, method: str, args: tuple[Any, ...]) -> float:
        return self.slow.pop(args[0][0], float(len(args[0])))

    def square(self, numbers: list[int]) -> list[int]:
        for x in numbers:
            if self.deaths.get(x, 0):
                self.deaths[x] -= 1
                raise Death
            if x < 0:
                raise UserError("negative")
        return [x * x for x in numbers]


def pool(
    actors: int = 2,
    *,
    most: int | None = None,
    deaths: dict[int, int] | None = None,
    slow: dict[int, float] | None = None,
    starts: Sequence[int] = (),
    **faults: Any,
) -> Pool:
    kind = type(
        "Worker",
        (Worker,),
        {"deaths": dict(deaths or {}), "slow": dict(slow or {}), "started": 0, "deadly_starts": starts},
    )
    return Pool("reward", kind, Placement(actors=actors, most=most), Faults(**faults))


def task(numbers: list[int]) -> Task:
    return Task(
        "square", (numbers,), cost=len(numbers), about=numbers, parts=lambda: [task([number]) for number in numbers]
    )


def finish(workers: Pool) -> list[Task]:
    while workers.waiting or workers.busy:
        wait([workers])
    return list(workers.done)


def answers(tasks: list[Task]) -> dict[int, int]:
    return {x: y for t in tasks if t.lost is None for x, y in zip(t.about, t.result, strict=True)}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=12),
    st.integers(1, 4),
    st.dictionaries(st.integers(0, 9), st.integers(0, 2), max_size=3),
)
def test_all_work_is_done_whoever_dies(work: list[list[int]], actors: int, deaths: dict[int, int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        simulate(patch)
        workers = pool(actors, deaths=deaths, max_tries=50, max_restarts=50)
        workers.submit([task(numbers) for numbers in work])
        done = finish(workers)
    assert not [t for t in done if t.lost]
    assert sorted(x for t in done for x in t.about) == sorted(x for numbers in work for x in numbers)
    assert all(t.result == [x * x for x in t.about] for t in done)
    asked_for = {x for numbers in work for x in numbers}
    assert workers.restarts == sum(n for x, n in deaths.items() if x in asked_for)


def test_the_longest_is_handed_out_first(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(1)
    workers.submit([task([1]), task([1, 2, 3]), task([1, 2])])
    assert [len(t.about) for t in finish(workers)] == [3, 2, 1]
    # Two actors: 5 | 4, then 3 to the one that is free first, then 2 and 1: done after 8 and 7 seconds.
    ray.now = 0.0
    workers = pool(2)
    workers.submit([task([0] * n) for n in (1, 2, 3, 4, 5)])
    finish(workers)
    assert ray.now == 8


def test_a_dead_actors_work_is_done_again(ray: SimulatedRay, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    workers = pool(deaths={3: 2, 5: 1})
    workers.submit([task([x]) for x in range(8)])
    done = finish(workers)
    assert answers(done) == {x: x * x for x in range(8)}
    assert {t.about[0]: t.tries for t in done if t.tries} == {3: 2, 5: 1}
    assert workers.restarts == 3
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all("reward actor" in line and "died" in line for line in lines)


def test_who_kills_its_actors_is_found_and_given_up(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(deaths={3: 99})
    workers.submit([task([1, 2, 3, 4]), task([5])])
    done = finish(workers)
    assert answers(done) == {x: x * x for x in (1, 2, 4, 5)}
    (lost,) = [t for t in done if t.lost]
    assert lost.about == [3]
    # Twice with the others, then (its third actor) alone; one death of the parts' counts for each.
    assert (workers.restarts, lost.tries) == (4, 3)


def test_too_many_deaths_in_a_row_end_the_run_with_a_name(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(1, deaths={3: 99}, max_restarts=3, max_tries=99)
    workers.submit([task([3])])
    with pytest.raises(WorkerLost, match="reward actors died 4 times in a row with nothing done"):
        finish(workers)
    # Work that is done in between starts the count anew.
    workers = pool(1, deaths={0: 1, 4: 1}, max_restarts=1)
    workers.submit([task([x]) for x in range(5)])
    assert len(answers(finish(workers))) == 5
    assert workers.restarts == 2


def test_a_node_may_take_many_actors_at_once(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(12, deaths={x: 1 for x in range(12)}, max_restarts=1)
    workers.submit([task([x]) for x in range(12)])
    assert len(answers(finish(workers))) == 12
    assert workers.restarts == 12


def test_without_any_node_nothing_is_waited_for(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(deaths={3: 1})
    ray.alive = [False]
    workers.submit([task([3])])
    with pytest.raises(ClusterLost, match="no node of its cluster is left"):
        finish(workers)


def test_an_actor_that_dies_while_it_starts_is_started_again(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(deaths={3: 1}, starts=(3, 4))  # the first two start; their first two successors do not
    workers.submit([task([3]), task([4])])
    assert answers(finish(workers)) == {3: 9, 4: 16}
    assert workers.restarts == 3
    workers = pool(starts=range(99))
    workers.submit([task([3])])
    with pytest.raises(WorkerLost):
        finish(workers)


def test_a_workers_error_arrives_as_itself(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool()
    workers.submit([task([1]), task([-1])])
    with pytest.raises(UserError, match="negative"):
        finish(workers)


def test_a_silent_actor_is_replaced(ray: SimulatedRay, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    workers = pool(1, slow={3: 1e6}, timeout_s=60.0, straggler=None)
    workers.submit([task([3])])
    assert answers(finish(workers)) == {3: 9}
    assert 60 < ray.now < 64
    assert "no answer for 60 s" in capsys.readouterr().err


def test_a_straggler_is_helped_and_the_first_answer_counts(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(2, slow={7: 1000.0})
    workers.submit([task([x]) for x in (0, 1, 2, 3, 4, 5, 7)])
    done = finish(workers)
    assert answers(done) == {x: x * x for x in (0, 1, 2, 3, 4, 5, 7)}
    assert [t.about for t in done].count([7]) == 1
    # A task takes 1 s; at three times (1 + 1) s the other actor, long idle, gets it too: about 3 + 6 + 1 s, not 1000.
    assert ray.now < 14
    # Without help the pool waits.
    ray.now = 0.0
    workers = pool(2, slow={7: 1000.0}, straggler=None)
    workers.submit([task([x]) for x in (0, 1, 2, 3, 4, 5, 7)])
    finish(workers)
    assert ray.now >= 1000


def test_a_pool_grows_while_work_waits_and_lets_idle_actors_go(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(1, most=4, idle_s=10.0)
    workers.submit([task([x] * 5) for x in range(8)])
    finish(workers)
    assert len(workers.slots) == 4
    assert ray.now < 8 * 5 / 2
    for _ in range(20):
        wait([workers])
    assert [slot.index for slot in workers.slots] == [0]


def test_dropped_work_is_nobodys(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(1)
    workers.submit([task([1]), task([2])])
    wait([workers])
    workers.drop_all()
    workers.submit([task([3])])
    assert answers(finish(workers)) == {3: 9}


def test_a_pool_without_room_says_what_it_waits_for(ray: SimulatedRay) -> None:  # noqa: F811
    workers = pool(1, start_timeout_s=100.0)
    workers.slots[0].state = "starting"
    workers.slots[0].reference = None
    workers.submit([task([1])])
    with pytest.raises(WorkerLost, match=r"no reward actor has started for 100 s; each asks for 0\.5 CPUs"):
        finish(workers)

"""The short forms, with a tiny model: each kind of worker dies once, and the driver too."""

from __future__ import annotations

from collections.abc import Callable

from .conftest import MakeRun
from .runs import MANY, Run, check_whole, deaths, final_state, kill_driver, records, workers


def test_a_run_that_lost_a_worker_of_each_kind_ends_with_the_same_bits(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run]
) -> None:
    run = make_run(*MANY).start()
    for step, role in enumerate(("rollout", "learner", "reward"), 1):
        run.wait_for_step(step)
        workers(role)[0].kill()
    second = make_run(*MANY, f"run_dir={run.folder}").start().end(2)
    assert "another run is at work in it" in second.said.splitlines()[-1]
    run.end()
    check_whole(run, 12)
    for role in ("rollout", "learner", "reward"):
        (line,) = deaths(run, role)
        assert "worker process has died" in line and "restart 1" in line and "pid " in line
    assert "(raylet)" not in run.said and "Traceback" not in run.said
    whole = undisturbed(tiny, *MANY)
    assert final_state(run) == final_state(whole)
    assert records(run, tries=False) == records(whole, tries=False)


def test_the_same_command_after_a_killed_driver_ends_with_the_same_bits(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run]
) -> None:
    run = make_run(*MANY)
    (left,) = kill_driver(run, 1)
    assert 1 <= left < 12
    run.start().end()
    whole = undisturbed(tiny, *MANY)
    assert final_state(run) == final_state(whole)
    assert records(run) == records(whole)

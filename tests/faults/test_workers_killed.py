"""SIGKILL of rollout, reward and learner workers at random moments: the run ends as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from .conftest import MakeRun
from .runs import SEED, Run, check_whole, deaths, final_state, kill_workers, records, workers

pytestmark = pytest.mark.faults
ROLES = ("rollout", "reward", "learner")


def check_told(run: Run, killed: list[str]) -> None:
    """Every death has its line, with the actor's place, process and end; none that was not inflicted."""
    for role, times in Counter(killed).items():
        lines = deaths(run, role)
        assert len(lines) == times, lines
        assert f"restart {times}" in lines[-1]
        for line in lines:
            assert "pid " in line and "worker process has died" in line


@pytest.mark.parametrize("half", [0, 1])
def test_twenty_deaths_at_random_moments_change_no_bit(
    make_run: MakeRun, smollm2: str, undisturbed: Callable[..., Run], half: int
) -> None:
    """Ten in each of two runs."""
    # Whoever is killed again and again over one prompt would have it quarantined, and learn from another.
    settings = ("rl.steps=18", "rl.checkpoint_every=2", "cluster.max_tries=20")
    run = make_run(*settings, model=smollm2).start()
    killed = kill_workers(run, ROLES, 10, seed=SEED + half)
    run.end()
    check_whole(run, 18)
    check_told(run, killed)
    whole = undisturbed(smollm2, *settings)
    assert final_state(run) == final_state(whole)
    assert records(run, tries=False) == records(whole, tries=False)


def test_with_staleness_nothing_older_than_the_bound_is_learnt_from(make_run: MakeRun) -> None:
    run = make_run("rl.staleness=1", "rl.steps=24", "rl.prompts=2", "cluster.rollout.actors=2").start()
    killed = kill_workers(run, ROLES, 8, seed=SEED)
    run.end()
    check_told(run, killed)
    # The draws of the batch that is sampled ahead may still be on their way at the end.
    entries = check_whole(run, 24, ahead=2)
    ages = [step - 1 - entry.version for step, entry in entries if entry.outcome == "trained"]
    assert set(ages) <= {0, 1} and 1 in ages


@pytest.mark.parametrize("rank", [0, 1])
def test_a_team_of_learners_that_loses_one_begins_again_and_changes_no_bit(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run], rank: int
) -> None:
    """The other waits for it in what they do together: it is not waited for, and the death is what is told."""
    settings = ("rl.steps=12", "cluster.learner.actors=2", "rl.zero.stage=2")
    run = make_run(*settings).start()
    run.wait_for_step(2)
    sorted(workers("learner"), key=lambda process: process.create_time())[rank].kill()
    run.end()
    check_whole(run, 12)
    (line,) = deaths(run, "learner")
    assert "worker process has died" in line
    whole = undisturbed(tiny, *settings)
    assert final_state(run) == final_state(whole)
    assert records(run, tries=False) == records(whole, tries=False)

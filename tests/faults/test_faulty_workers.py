"""Workers that hang, that are slow, that a prompt kills each time, and a learner whose numbers explode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlrp.runtime.ledger import Entry

from .conftest import MakeRun
from .runs import MANY, Run, check_whole, deaths, final_state, records, said_by_user

pytestmark = pytest.mark.faults
STEPS = ("rl.steps=5",)
BAD = 2
"""The draw that faults strike at."""


def faulty_reward(kind: str, *draws: int, once: Path | None = None) -> str:
    texts = "".join(f"\n        - {said_by_user(draw)!r}" for draw in draws)
    return f"""
version: 1
terms:
  faulty:
    class: faulty_terms:{kind}
    weight: 1.0
    options:
      once: {once or "null"}
      texts: {texts}
"""


def the_quarantined(entries: list[tuple[int, Entry]]) -> Entry:
    (entry,) = [entry for _, entry in entries if entry.outcome != "trained"]
    assert entry.outcome == "quarantined"
    return entry


def test_a_reward_actor_that_hangs_is_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    reward = faulty_reward("Hangs", BAD, once=tmp_path / "hung")
    run = make_run(*STEPS, "cluster.reward.timeout_s=15", reward=reward).start().end()
    (line,) = deaths(run, "reward")
    assert "no answer for 15 s" in line
    entries = check_whole(run, 5)
    assert {entry.outcome for _, entry in entries} == {"trained"}
    # Sampled once, judged a second time.
    assert [entry.tries for _, entry in entries] == [1, 1, 2, 1, 1]


def test_a_learner_that_hangs_is_replaced(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(
        *MANY, "cluster.learner.timeout_s=20", fault="HangingLearner", env={"FAULTY_ONCE": str(tmp_path / "hung")}
    )
    run.start().end()
    (line,) = deaths(run, "learner")
    assert "no answer for 20 s" in line
    check_whole(run, 12)
    whole = undisturbed(tiny, *MANY)
    assert final_state(run) == final_state(whole)
    assert records(run) == records(whole)


def test_a_prompt_that_kills_whoever_judges_it_is_quarantined(make_run: MakeRun) -> None:
    run = make_run(*STEPS, "cluster.max_tries=2", reward=faulty_reward("Dies", BAD)).start().end()
    assert len(deaths(run, "reward")) == 2
    entry = the_quarantined(check_whole(run, 5))
    assert entry.draw == BAD and entry.cause is not None and entry.cause.startswith("reward: pid ")
    assert f"quarantined: {entry.prompt_id}" in run.said


def test_a_prompt_that_kills_whoever_samples_it_is_quarantined_and_the_rest_of_its_task_is_not(
    make_run: MakeRun,
) -> None:
    """Two prompts of a step go to one actor together: the deadly one takes two actors, then one alone."""
    run = make_run(*STEPS, "rl.prompts=2", "cluster.max_tries=3", fault="DyingRollout", env={"FAULTY_DRAW": f"{BAD}"})
    run.start().end()
    assert len(deaths(run, "rollout")) == 4
    entry = the_quarantined(check_whole(run, 5))
    assert entry.draw == BAD and entry.cause is not None and entry.cause.startswith("rollout: pid ")
    assert f"quarantined: {entry.prompt_id}" in run.said


@pytest.mark.parametrize("staleness", [0, 1])
def test_weights_that_take_seconds_to_arrive_kill_nobody(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run], staleness: int
) -> None:
    settings = (*STEPS, f"rl.staleness={staleness}", "cluster.rollout.actors=2", "rl.prompts=2")
    run = make_run(*settings, fault="SlowWeights", env={"FAULTY_SECONDS": "3"}).start().end()
    assert " died (" not in run.said
    entries = check_whole(run, 5, ahead=2 * staleness)
    assert all(step - 1 - entry.version in range(staleness + 1) for step, entry in entries)
    if not staleness:
        whole = undisturbed(tiny, *settings)
        assert final_state(run) == final_state(whole)
        assert records(run) == records(whole)


def test_three_losses_that_are_not_finite_end_the_run_with_the_checkpoint_before_them(make_run: MakeRun) -> None:
    settings = ("rl.steps=9", "rl.advantage_scale=none")
    run = make_run(*settings, reward=faulty_reward("Explodes", 3, 4, 5)).start().end(1)
    last = run.said.splitlines()[-1]
    assert last == "rlrp: three losses in a row were not finite; the last checkpoint is from before them"
    assert "Traceback" not in run.said
    assert final_state(run)["step"] == 3
    assert run.steps == 5

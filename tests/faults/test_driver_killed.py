"""SIGKILL of the driver at random moments, and the same command again: the same bits at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import MakeRun
from .runs import Run, check_whole, final_state, kill_driver, records

pytestmark = pytest.mark.faults

# Ten moments in all.
CASES = [
    pytest.param(("rl.algorithm=grpo",), 6, id="grpo"),
    # The critic: its adapter, value head and optimizer are part of the checkpoint.
    pytest.param(("rl.algorithm=ppo",), 4, id="ppo"),
]


@pytest.mark.parametrize(("algorithm", "moments"), CASES)
def test_a_driver_killed_again_and_again_changes_no_bit(
    make_run: MakeRun, smollm2: str, undisturbed: Callable[..., Run], algorithm: tuple[str, ...], moments: int
) -> None:
    """Under a reward that remembers all it saw, with dropout, a rising learning rate and an adaptive KL coefficient."""
    # A try may get two steps further before it is killed, and the last must have something left to do.
    steps = 2 * moments + 2
    settings = (f"rl.steps={steps}", *algorithm)
    run = make_run(*settings, model=smollm2)
    left = kill_driver(run, moments)
    assert max(left) < steps, left
    run.start().end()
    check_whole(run, steps)
    whole = undisturbed(smollm2, *settings)
    state = final_state(run)
    assert state["totals"], "the totals have nothing to remember: this run shows nothing"
    assert state == final_state(whole)
    assert records(run) == records(whole)

"""SIGKILL of the driver at random moments, and the same command again: the same bits at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import MakeRun
from .runs import MANY, Run, check_whole, final_state, kill_driver, records

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


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_passed_over_and_changes_no_bit(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run], damage: str
) -> None:
    run = make_run(*MANY).start()
    run.wait_for_step(4)
    run.kill()
    newest = (run.folder / "checkpoints" / "last").resolve()
    weights = newest / "adapter_model.safetensors"
    data = weights.read_bytes()
    if damage == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    else:
        (newest / "optimizer.safetensors").unlink()
    mark = len(run.said)
    run.start().end()
    complaint = f"{newest.name}: {'optimizer' if damage == 'missing' else 'adapter_model'}.safetensors is "
    assert run.said[mark:].count(complaint) == 1, run.said[mark:]
    assert "the checkpoint before it is used" in run.said[mark:]
    check_whole(run, 12)
    whole = undisturbed(tiny, *MANY)
    assert final_state(run) == final_state(whole)
    assert records(run) == records(whole)

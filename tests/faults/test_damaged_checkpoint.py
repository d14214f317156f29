"""A checkpoint that is damaged when its run is to go on from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import MakeRun
from .runs import MANY, Run, check_whole, final_state, records

pytestmark = pytest.mark.faults


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

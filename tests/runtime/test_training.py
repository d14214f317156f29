"""A run through the loss of its learner, full disks and restarts: it ends where an undisturbed one does."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from rlrp.errors import UserError
from rlrp.rl.learner import StepReport
from rlrp.runtime.learners import LearnerLost
from rlrp.runtime.ledger import Entry
from rlrp.runtime.loop import Batch, LoopSettings
from rlrp.runtime.training import Training

from .made import judged


class Run:
    """Learner, source, totals and log in one: a sum of the draws, so that a draw lost or repeated shows in it."""

    refs: tuple[Any, ...] = ()

    def __init__(self, folder: Path, steps: int = 7, every: int = 2, **options: Any):
        self.sum, self.draw, self.restarts, self.seen = 0, 0, 0, 0
        self.learner_restarts = 0
        self.deaths: list[int] = []
        self.deaths_on_loading = 0
        self.full: dict[int, Exception] = {}
        self.lines: list[int] = []
        self.closed = 0
        self.training = Training(
            folder,
            LoopSettings(steps, checkpoint_every=every),
            self,
            self,
            self,
            self.open_log,
            "s",
            **options,  # type: ignore[arg-type]
        )

    def open_log(self, start: int) -> Run:
        self.lines = self.lines[:start]
        return self

    def close(self) -> None:
        self.closed += 1

    def write(self, step: int, *_: Any) -> None:
        self.lines.append(step)

    def start_next(self) -> None:
        pass

    def publish(self, version: int, weights: Any, checksum: str) -> None:
        self.version = version

    def take(self, step: int) -> Batch:
        self.draw += 1
        return Batch([judged([1.0, float(self.draw)])], [Entry(self.draw, "p", step, 1, "trained")])

    def meanwhile(self, pending: Any) -> StepReport:
        if self.deaths and self.version == self.deaths[0]:
            del self.deaths[0]
            raise LearnerLost("its node is gone")
        self.sum = self.sum * 3 + self.draw
        self.seen += 1
        return StepReport({}, [[0.0, 0.0]])

    def begin(self, groups: Any) -> Any:
        return self

    def weights(self) -> tuple[Any, str]:
        return self.sum, str(self.sum)

    def save(self, folder: str) -> None:
        if self.version in self.full:
            raise self.full.pop(self.version)
        (Path(folder) / "adapter_model.safetensors").write_text(str(self.sum))

    def load(self, folder: str) -> None:
        if self.deaths_on_loading:
            self.deaths_on_loading -= 1
            raise LearnerLost("killed as it loaded")
        self.sum = int((Path(folder) / "adapter_model.safetensors").read_text())

    def restart(self) -> None:
        self.restarts += 1
        self.sum = 0

    def state(self) -> dict[str, Any]:
        return {"draw": self.draw, "seen": self.seen}

    def load_state(self, state: Any, version: int = 0) -> None:
        self.draw, self.seen = state.get("draw", 0), state.get("seen", 0)


def undisturbed(folder: Path) -> int:
    run = Run(folder / "undisturbed")
    run.training.run()
    return run.sum


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("deaths", [[0], [1], [3], [2, 5], [6], [3, 3, 3]])
def test_a_lost_learner_goes_on_from_the_last_checkpoint(tmp_path: Path, deaths: list[int]) -> None:
    run = Run(tmp_path)
    run.deaths = list(deaths)
    run.training.run()
    assert run.sum == undisturbed(tmp_path)
    assert run.restarts == run.learner_restarts == len(deaths)
    assert run.lines == list(range(7))
    assert run.seen == 7


def test_a_learner_lost_while_it_loads_is_started_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path)
    run.deaths, run.deaths_on_loading = [3], 2
    run.training.run()
    assert run.sum == undisturbed(tmp_path)
    assert run.restarts == 3
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "learner actor died (its node is gone); restart 1, back to the last checkpoint",
        "learner actor died (killed as it loaded); restart 2, back to the last checkpoint",
        "learner actor died (killed as it loaded); restart 3, back to the last checkpoint",
    ]


def test_a_learner_that_never_gets_further_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, max_restarts=2)
    run.deaths = [3] * 9
    with pytest.raises(LearnerLost, match="its node is gone"):
        run.training.run()
    # The first death left a checkpoint further on; after it two restarts in a row led nowhere.
    assert run.restarts == 3
    assert run.closed == 4


@pytest.mark.parametrize("stopped", range(1, 7))
def test_the_same_command_again_ends_at_the_same_bits(tmp_path: Path, stopped: int) -> None:
    class Killed(BaseException): ...

    first = Run(tmp_path)
    take = first.take

    def kill(step: int) -> Batch:
        if step == stopped:
            raise Killed
        return take(step)

    first.take = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        first.training.run()
    second = Run(tmp_path)
    second.lines = first.lines
    second.training.run()
    assert second.sum == undisturbed(tmp_path)
    assert second.lines == list(range(7))


@pytest.mark.parametrize("full", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: full")])
def test_a_full_disk_costs_a_checkpoint_but_not_the_run(
    tmp_path: Path, full: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    run.full = {4: full}
    run.training.run()
    assert checkpoints(tmp_path) == ["best", "last", "step-000006", "step-000007"]
    assert "step 4: no checkpoint" in capsys.readouterr().err
    assert run.sum == undisturbed(tmp_path)


def test_last_is_put_right_where_a_killed_run_did_not_get_to_it(tmp_path: Path) -> None:
    Run(tmp_path).training.run()
    last = tmp_path / "checkpoints" / "last"
    last.unlink()
    last.symlink_to("step-000006")
    Run(tmp_path).training.run()
    assert last.resolve().name == "step-000007"


def test_a_full_disk_at_the_end_is_the_users_to_mend(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.full = {7: OSError(errno.ENOSPC, "No space left on device")}
    with pytest.raises(UserError, match=r"the last checkpoint could not be written.*No space left"):
        run.training.run()
    assert checkpoints(tmp_path) == ["best", "last", "step-000004", "step-000006"]
    again = Run(tmp_path)
    again.training.run()
    assert again.sum == undisturbed(tmp_path)


def test_records_on_a_full_disk_end_the_run_with_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    run.write = full  # type: ignore[method-assign]
    with pytest.raises(UserError, match="No space left on device; free some"):
        run.training.run()
    run = Run(tmp_path)
    error = PermissionError(errno.EACCES, "Permission denied")

    def denied(*_: Any) -> None:
        raise error

    run.write = denied  # type: ignore[method-assign]
    with pytest.raises(PermissionError):
        run.training.run()


def test_the_best_checkpoint_stays(tmp_path: Path) -> None:
    run = Run(tmp_path, steps=8)
    take: Callable[[int], Batch] = run.take

    def worse_and_worse(step: int) -> Batch:
        batch = take(step)
        batch.groups = [judged([10.0 - step, 0.0])]
        return batch

    run.take = worse_and_worse  # type: ignore[method-assign]
    run.training.run()
    assert checkpoints(tmp_path) == ["best", "last", "step-000002", "step-000006", "step-000008"]
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-000002"
    state = json.loads((tmp_path / "checkpoints" / "best" / "training_state.json").read_text())
    assert state["score"] == (5.0 + 4.5) / 2  # the means of the two steps since the checkpoint before

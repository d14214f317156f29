"""``rlrp status`` on run directories made by hand: running, finished, failed, silent, damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlrp.cli import main
from rlrp.config import Config, dump_config
from rlrp.errors import UserError
from rlrp.files import held
from rlrp.pipeline import Experiment
from rlrp.runtime.checkpoints import save_checkpoint
from rlrp.status import describe, read_status

NOW = 2_000_000_000.0


def config(steps: int = 12) -> Config:
    return Config.model_validate({"name": "tale", "rl": {"steps": steps, "prompts": 2}})


def row(step: int, reward: float, **more: float) -> dict[str, float]:
    return {"step": step, "reward/total": reward, "kl": 0.01 * step, "seconds/learn": 10.0, **more}


def entry(step: int, draw: int, outcome: str = "trained") -> dict[str, object]:
    return {"step": step, "draw": draw, "prompt_id": f"p{draw}", "version": step - 1, "tries": 1, "outcome": outcome}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """A run directory that was last written ``age`` seconds before ``NOW``."""

    def make(rows: list[dict[str, float]], ledger: list[dict[str, object]] | None = None, age: float = 5.0) -> Path:
        (tmp_path / "config.yaml").write_text(dump_config(config()), encoding="utf-8")
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
        if ledger is not None:
            lines = "".join(json.dumps(one) + "\n" for one in ledger)
            (tmp_path / "ledger.jsonl").write_text(lines, encoding="utf-8")
        for path in tmp_path.iterdir():
            os.utime(path, (NOW - age, NOW - age))
        return tmp_path

    return make


def write_adapter(folder: str) -> None:
    (Path(folder) / "adapter_model.safetensors").write_bytes(b"weights")


def test_a_running_run(make: Callable[..., Path]) -> None:
    more = {"tokens_per_second/rollout": 90.0, "restarts/rollout": 2.0, "restarts/reward": 0.0}
    run = make([row(1, -0.4), row(2, 0.0), row(3, 0.1), row(4, 0.3, **more)])
    save_checkpoint(run, 4, write_adapter, {"settings": "s"})
    status = read_status(run, NOW)
    assert (status.state, status.step, status.steps, status.step_s) == ("running", 4, 12, 10.0)
    # Of four steps, the first two and the last two.
    assert status.reward == {"total": pytest.approx((-0.2, 0.2))} and status.kl == pytest.approx((0.015, 0.035))
    assert status.restarts == {"rollout": 2, "reward": 0} and status.tokens_per_second == {"rollout": 90.0}
    said = "\n".join(describe(status))
    assert "running, about 1 min 20 s left" in said  # eight steps of ten seconds
    assert "step:        4 of 12, 10.0 s a step" in said and "step-000004), whole" in said
    assert "restarts:    rollout 2, reward 0" in said and "quarantined" not in said


def test_a_run_that_does_not_write_looks_dead(make: Callable[..., Path]) -> None:
    assert read_status(make([row(1, 0.0)], age=299), NOW).state == "running"
    assert read_status(make([row(1, 0.0)], age=301), NOW).state == "silent"
    slow = [row(1, 0.0) | {"seconds/learn": 400.0}]
    assert read_status(make(slow, age=1999), NOW).state == "running"  # five steps of 400 s
    assert read_status(make(slow, age=2001), NOW).state == "silent"


def test_a_finished_run(make: Callable[..., Path]) -> None:
    assert read_status(make([row(12, 0.5)], age=1e6), NOW).state == "finished"


def test_before_the_first_step(make: Callable[..., Path]) -> None:
    status = read_status(make([]), NOW)
    assert (status.state, status.step, status.checkpoint) == ("starting", 0, None)
    assert "checkpoint:  none yet" in describe(status)


def test_a_killed_writer_leaves_half_a_line(make: Callable[..., Path]) -> None:
    run = make([row(1, 0.0), row(2, 0.0)], [entry(1, 0), entry(1, 1)])
    for name in ("metrics.jsonl", "ledger.jsonl"):
        with (run / name).open("a", encoding="utf-8") as stream:
            stream.write('{"step": 3, "rew')
    status = read_status(run)
    assert (status.step, status.draws) == (2, 2)


def test_a_damaged_checkpoint(make: Callable[..., Path]) -> None:
    run = make([row(1, 0.0)])
    save_checkpoint(run, 1, write_adapter, {"settings": "s"})
    (run / "checkpoints" / "step-000001" / "adapter_model.safetensors").write_bytes(b"weight")
    status = read_status(run, NOW)
    assert status.checkpoint_problem == "adapter_model.safetensors is damaged"
    assert any("is damaged; the one before it would be used" in text for text in describe(status))


def test_the_ledger_is_checked(make: Callable[..., Path]) -> None:
    rows = [row(1, 0.0), row(2, 0.0)]
    good = [entry(1, 0), entry(1, 1, "equal"), entry(1, 2), entry(2, 3, "dropped"), entry(2, 3), entry(2, 4)]
    status = read_status(make(rows, good), NOW)
    assert status.ledger_problems == [] and status.outcomes == {"trained": 4, "equal": 1, "dropped": 1}
    assert "ledger:      4 trained, 1 equal, 1 dropped; no gap, no double" in describe(status)
    bad = [entry(1, 0), entry(1, 2), entry(2, 2), entry(2, 3, "quarantined") | {"cause": "rollout: killed"}]
    status = read_status(make(rows, bad), NOW)
    assert status.ledger_problems == ["draw 2 was used up 2 times", "draw 1 is missing"]
    assert status.quarantined == ["p3 (rollout: killed)"]


def test_what_ended_a_run_is_kept(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make([row(1, 0.0)])
    experiment = Experiment(config().model_copy(update={"run_dir": str(run)}))

    def diverge() -> Path:
        raise RuntimeError("loss is nan\nat step 2")

    monkeypatch.setattr(experiment, "_train", diverge)
    with pytest.raises(RuntimeError):
        experiment.train()
    status = read_status(run)
    assert (status.state, status.error) == ("failed", "RuntimeError: loss is nan at step 2")
    assert "Traceback" in (run / "error.txt").read_text(encoding="utf-8")
    # The next try that gets anywhere takes it away.
    monkeypatch.setattr(experiment, "_train", lambda: run)
    experiment.train()
    assert read_status(run).error is None


def test_a_run_that_had_not_begun_leaves_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(config().model_copy(update={"run_dir": str(tmp_path / "run")}))

    def refuse() -> Path:
        raise UserError("no prompts", file="p.jsonl")

    monkeypatch.setattr(experiment, "_train", refuse)
    with pytest.raises(UserError):
        experiment.train()
    assert not (tmp_path / "run" / "error.txt").exists()


def test_a_second_command_leaves_no_error_in_a_run_that_goes_on(make: Callable[..., Path]) -> None:
    run = make([row(1, 0.0)])
    with held(run), pytest.raises(UserError):
        Experiment(config().model_copy(update={"run_dir": str(run)})).train()
    assert read_status(run).error is None


def test_as_json(make: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = make([row(1, 0.25)], [entry(1, 0), entry(1, 1)])
    assert main(["status", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["step"], found["reward"]["total"]) == ("tale", 1, [0.25, 0.25])
    assert found["draws"] == 2 and found["ledger_problems"] == []


def spoil_nothing(run: Path) -> Path:
    return run / "elsewhere"


def spoil_emptied(run: Path) -> Path:
    (run / "empty").mkdir()
    return run / "empty"


def spoil_config(run: Path) -> Path:
    (run / "config.yaml").write_text("rl: [", encoding="utf-8")
    return run


def spoil_steps(run: Path) -> Path:
    (run / "config.yaml").write_text("name: x\n", encoding="utf-8")
    return run


def spoil_metrics(run: Path) -> Path:
    (run / "metrics.jsonl").write_text('{"step": 1}\n\x00\x00\n{"step": 3}\n', encoding="utf-8")
    return run


def spoil_ledger(run: Path) -> Path:
    (run / "ledger.jsonl").write_text('{"step": 1, "draw": 0}\n', encoding="utf-8")
    return run


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_nothing, "elsewhere: no such folder"),
        (spoil_emptied, "empty: is no run directory: it has no config.yaml"),
        (spoil_config, "config.yaml: is damaged"),
        (spoil_steps, "config.yaml: is damaged: it does not say rl.steps"),
        (spoil_metrics, "metrics.jsonl: line 2: is damaged: not a JSON object"),
        (spoil_ledger, "ledger.jsonl: is damaged"),
    ],
)
def test_what_is_no_run_is_one_line(
    spoil: Callable[[Path], Path], expected: str, make: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = spoil(make([row(1, 0.0)]))
    assert main(["status", str(folder)]) == 2
    said = capsys.readouterr()
    assert expected in said.err and said.err.count("\n") == 1 and said.out == ""

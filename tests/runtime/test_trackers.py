"""Trackers: which are there, what a failing one does, and the libraries themselves where they are installed.

RLRP_TRACKERS_PYTHON names a Python with wandb, mlflow and trackio, each tested without any server.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from rlrp.errors import UserError
from rlrp.runtime import trackers
from rlrp.runtime.trackers import NOTE, TrackedRun, Tracker, Trackers, check_trackers, finite

ROOT = Path(__file__).parents[2]


def test_a_missing_library_is_one_line_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "PACKAGES", {"wandb": "wandb_that_is_not_there"})
    with pytest.raises(UserError, match=r"tracking.to: wandb is not installed: pip install 'rlrp\[wandb\]'"):
        check_trackers(["wandb"])
    check_trackers([])


def test_a_folder_named_like_the_library_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_a_library").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trackers, "PACKAGES", {"wandb": "not_a_library"})
    with pytest.raises(UserError, match="not installed"):
        check_trackers(["wandb"])


class Recorder:
    """A tracker that keeps what it gets, and fails on request."""

    def __init__(self, run: TrackedRun):
        self.run, self.rows, self.closed, self.fails = run, [], False, False  # type: ignore[var-annotated]

    def log(self, step: int, row: Mapping[str, float]) -> None:
        if self.fails:
            raise ConnectionError("no route to host")
        self.rows.append((step, dict(row)))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    made: list[Recorder] = []

    def open_recorder(run: TrackedRun) -> tuple[Tracker, str]:
        made.append(Recorder(run))
        return made[-1], run.known or f"id-{len(made)}"

    monkeypatch.setattr(trackers, "_OPEN", {"a": open_recorder, "b": open_recorder})
    monkeypatch.setattr(trackers, "PACKAGES", {"a": "json", "b": "json"})
    return made


def test_a_tracker_that_fails_is_said_once_and_the_others_go_on(
    opened: list[Recorder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = Trackers(["a", "b"], tmp_path)
    opened[0].fails = True
    both.log(1, {"kl": 0.1})
    both.log(2, {"kl": 0.2})
    assert capsys.readouterr().err == "a: no route to host; the run goes on without it\n"
    opened[0].fails = False
    both.log(3, {"kl": 0.3})
    both.close()
    assert [step for step, _ in opened[0].rows] == [3] and [step for step, _ in opened[1].rows] == [1, 2, 3]
    assert opened[0].closed and opened[1].closed


def test_a_resumed_run_goes_on_in_the_trackers_run(opened: list[Recorder], tmp_path: Path) -> None:
    Trackers(["a", "b"], tmp_path, name="demo", project="p").close()
    assert json.loads((tmp_path / NOTE).read_text(encoding="utf-8")) == {"a": "id-1", "b": "id-2"}
    Trackers(["b"], tmp_path, start=4).close()
    assert (opened[2].run.known, opened[2].run.start) == ("id-2", 4)
    # From the start it is another run.
    Trackers(["b"], tmp_path, start=0).close()
    assert opened[3].run.known is None


def test_a_tracker_that_does_not_open_is_the_users_to_mend(opened: list[Recorder], tmp_path: Path) -> None:
    def no_key(run: TrackedRun) -> tuple[Tracker, str]:
        raise RuntimeError("No API key configured.\nSee the documentation.")

    trackers._OPEN["b"] = no_key
    with pytest.raises(UserError, match=r"^tracking.to: b: No API key configured\.$"):
        Trackers(["a", "b"], tmp_path)
    assert opened[0].closed


def test_only_finite_numbers_are_drawn() -> None:
    row = {"kl": 0.1, "loss": float("nan"), "ratio": float("inf"), "note": "text", "steps": 3, "none": None}
    assert finite(row) == {"kl": 0.1, "steps": 3.0}


LOGGED = """
import sys
from pathlib import Path
from rlrp.runtime.trackers import Trackers
kind, folder = sys.argv[1], Path(sys.argv[2])
settings = {"rl": {"steps": 4, "kl": {"coef": 0.1}}}
for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
    tracker = Trackers([kind], folder, project="rlrp-test", name="demo", settings=settings, start=start)
    for step in steps:
        tracker.log(step, {"reward/total": step / 4 + start, "kl": 0.01})
    assert not tracker.failing
    tracker.close()
    assert not tracker.failing
"""
READ_MLFLOW = """
import json, sys, mlflow
client = mlflow.MlflowClient(tracking_uri="sqlite:///" + sys.argv[1] + "/mlflow.db")
run = client.get_run(json.load(open(sys.argv[1] + "/trackers.json"))["mlflow"])
history = client.get_metric_history(run.info.run_id, "reward/total")
print(json.dumps([run.info.status, run.data.params, [[m.step, m.value] for m in history]]))
"""
READ_TRACKIO = """
import json, sqlite3, sys
rows = sqlite3.connect(sys.argv[1] + "/trackio/rlrp-test.db").execute("select run_name, step, metrics from metrics")
print(json.dumps([[name, step, json.loads(metrics)["reward/total"]] for name, step, metrics in rows]))
"""
VALUES = [[1, 0.25], [2, 0.5], [3, 0.75], [3, 2.75], [4, 3.0]]
"""The second run starts at step 2 and adds it: step 3 is there twice, as it was done twice."""


@pytest.fixture
def library(tmp_path: Path) -> object:
    """Runs a script in the Python that has the libraries; the variables keep everything in ``tmp_path``."""
    python = os.environ.get("RLRP_TRACKERS_PYTHON")
    if not python:
        pytest.skip("RLRP_TRACKERS_PYTHON names no Python with wandb, mlflow and trackio")

    def run(script: str, *arguments: str) -> str:
        more = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
        env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | more
        done = subprocess.run([python, "-c", script, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_mlflow_itself(library: object, tmp_path: Path) -> None:
    assert callable(library)
    library(LOGGED, "mlflow", str(tmp_path))
    status, settings, history = json.loads(library(READ_MLFLOW, str(tmp_path)).splitlines()[-1])
    assert (status, settings) == ("FINISHED", {"rl.steps": "4", "rl.kl.coef": "0.1"})
    assert history == VALUES


def test_trackio_itself(library: object, tmp_path: Path) -> None:
    assert callable(library)
    library(LOGGED, "trackio", str(tmp_path))
    rows = json.loads(library(READ_TRACKIO, str(tmp_path)).splitlines()[-1])
    name = json.loads((tmp_path / NOTE).read_text(encoding="utf-8"))["trackio"]
    assert rows == [[name, step, value] for step, value in VALUES]


def test_wandb_itself_offline(library: object, tmp_path: Path) -> None:
    assert callable(library)
    library(LOGGED, "wandb", str(tmp_path))
    identity = json.loads((tmp_path / NOTE).read_text(encoding="utf-8"))["wandb"]
    kept = sorted((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(kept) == 2  # the first part and the one that goes on, under one id
    assert b"reward/total" in kept[0].read_bytes() and b"2.75" in kept[1].read_bytes()

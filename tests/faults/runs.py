"""Runs as a user starts them, what befalls them, and what is left of them afterwards."""

from __future__ import annotations

import atexit
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow.parquet as pq

from rlrp.dialogue import read_prompts, resolve
from rlrp.files import sha256_file
from rlrp.rl.order import USER_PROMPTS, shuffled
from rlrp.runtime.ledger import Entry, check_ledger, read_ledger

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SEED = int(os.environ.get("RLRP_FAULTS_SEED", "0"))
"""Of the moments; printed with them."""
LIMIT = 420.0
"""Seconds that nothing here may take, on a busy machine."""
_VARYING = ("seconds/", "tokens_per_second/", "restarts/")
"""Metrics that no two runs agree on."""

SMALL = (
    "rl.group_size=2",
    "rl.max_new_tokens=8",
    "rl.warmup_steps=3",
    "rl.lora.dropout=0.1",
    "rl.kl.target=0.05",
    "cluster.rollout.threads=1",
    "cluster.reward.threads=1",
    "cluster.learner.threads=1",
    f"data.cards={HERE / 'data' / 'cards'}",
    f"data.dialogues={HERE / 'data' / 'dialogues.jsonl'}",
    "data.contrasts=null",
    "data.held_out=0",
)
"""Small steps in which all that a checkpoint has to hold changes: schedule, dropout's numbers, the KL coefficient. The
cards are a quarter of the shipped ones' length, and so are the steps."""

MANY = ("rl.steps=12",)
"""Steps of a third of a second: enough for something to befall the run in the middle."""

RUNNING = """
version: 1
terms:
  letters: {class: "faulty_terms:Letters", weight: 1.0, normalise: running}
  repetition: {weight: 0.5, normalise: running}
"""
"""A reward whose totals depend on all that was judged before, and that no two replies have the same of."""


class Run:
    """``rlrp train experiments/smoke.yaml`` in a process session of its own, its output in one file over all starts."""

    def __init__(
        self,
        folder: Path,
        model: str,
        *overrides: str,
        reward: str = RUNNING,
        fault: str | None = None,
        env: dict[str, str] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder / "run", folder / "run.log"
        (folder / "reward.yaml").write_text(reward, encoding="utf-8")
        settings = (f"model={model}", f"run_dir={self.folder}", f"reward.path={folder / 'reward.yaml'}")
        program = [str(HERE / "faulty.py"), fault] if fault else ["-m", "rlrp.cli"]
        self.command = [sys.executable, *program, "train", "experiments/smoke.yaml"]
        for setting in (*settings, *SMALL, *overrides):
            self.command += ["--set", setting]
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.env["RAY_TMPDIR"] = ray_folder()
        self.env["PYTHONPATH"] = python_path()
        self.env |= env or {}
        self.process: subprocess.Popen[bytes] | None = None
        self._agents: list[psutil.Process] = []

    def start(self) -> Run:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.started = time.monotonic()
        return self

    def end(self, code: int = 0) -> Run:
        """Wait for the end, which must be the one expected."""
        assert self.process is not None
        try:
            got = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still at step {self.steps} after {LIMIT:g} s:\n{self.said[-3000:]}") from None
        assert got == code, f"exit code {got}:\n{self.said[-3000:]}"
        return self

    def kill(self) -> None:
        """SIGKILL the driver as it is. Its workers, and Ray's processes, must follow by themselves."""
        assert self.process is not None
        family = {process: _title(process) for process in psutil.Process(self.process.pid).children(recursive=True)}
        self.process.kill()
        self.process.wait()
        # Ray's two agents look for their dead cluster for a while before they give up.
        agents = [process for process, title in family.items() if title.endswith("Agent")]
        _, alive = psutil.wait_procs([process for process in family if process not in agents], timeout=60)
        self._agents += agents
        outlived = [f"{process.pid} {family[process]}" for process in alive]
        _kill(alive)
        assert outlived == []

    def close(self) -> None:
        """Leave nothing behind, which on a run that has ended, in whatever way, takes nothing but patience."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        _, alive = psutil.wait_procs(self._agents, timeout=180)
        _kill(alive)
        assert alive == []

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def steps(self) -> int:
        """Steps that are logged now; a lost learner takes some back."""
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def metrics(self) -> list[dict[str, Any]]:
        """A row a step; a line that is being written is none yet."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait(self, what: str, condition: Callable[[], Any], *, seconds: float = LIMIT) -> Any:
        """The condition's first true value; the run must not end before."""
        assert self.process is not None
        until = time.monotonic() + seconds
        while not (value := condition()):
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.said[-3000:]}"
            assert time.monotonic() < until, f"no {what} for {seconds:g} s:\n{self.said[-3000:]}"
            time.sleep(0.05)
        return value

    def wait_for_step(self, step: int) -> None:
        self.wait(f"step {step}", lambda: self.steps >= step)


def python_path() -> str:
    """With this folder in it, for its faulty terms and workers."""
    return os.pathsep.join([str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")])


@cache
def ray_folder() -> str:
    """Where Ray keeps its sockets and the logs of many sessions until the tests end; sockets need a short name."""
    folder = tempfile.mkdtemp(prefix="rlrp-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def workers(role: str) -> list[psutil.Process]:
    """The actors of a role that live below this process, by their process titles."""
    return [p for p in psutil.Process().children(recursive=True) if _title(p).startswith(f"ray::{role.capitalize()}")]


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def kill_workers(run: Run, roles: Sequence[str], moments: int, *, seed: int) -> list[str]:
    """SIGKILL actors at random moments: three in four after a further step, one in four soon after the one before;
    each somewhere within the time of a step."""
    rng = random.Random(seed)
    killed = []
    for moment in range(moments):
        target = run.steps + (moment == 0 or rng.random() < 0.75)
        run.wait_for_step(target)
        time.sleep(rng.uniform(0, _step_seconds(run)))
        role = rng.choice(roles)
        victim = run.wait(f"{role} actor", lambda role=role: workers(role))[0]  # type: ignore[misc]
        print(f"moment {moment + 1} (seed {seed}): step {run.steps + 1}, {role}, pid {victim.pid}", flush=True)
        os.kill(victim.pid, signal.SIGKILL)
        killed.append(role)
    return killed


def kill_driver(run: Run, moments: int) -> list[int]:
    """Start the run again and again and SIGKILL its driver: in one of four tries as it starts, else after a further
    step; returns the steps that each try left."""
    rng = random.Random(SEED)
    left = []
    start_seconds = 20.0
    for moment in range(moments):
        mark = len(run.said) if run.log.exists() else 0
        run.start()
        if moment and rng.random() < 0.25:
            time.sleep(rng.uniform(0, start_seconds))
        else:
            run.wait("a step", lambda mark=mark: re.search(r"^step ", run.said[mark:], re.M))  # type: ignore[misc]
            start_seconds = time.monotonic() - run.started
            time.sleep(rng.uniform(0, _step_seconds(run)))
        run.kill()
        print(f"moment {moment + 1} (seed {SEED}): step {run.steps + 1}, driver", flush=True)
        left.append(run.steps)
    return left


def _step_seconds(run: Run) -> float:
    """What a step takes in which nothing has befallen the run, as far as there was one."""
    rows = run.metrics() if run.steps else []
    return median(row["seconds/step"] for row in rows) if rows else 3.0


def final_state(run: Run) -> dict[str, Any]:
    """The last checkpoint's training state: totals, draws, and the digests of weights, optimizer, KL coefficient and
    whatever else it has, which are checked against the files."""
    last = run.folder / "checkpoints" / "last"
    state: dict[str, Any] = json.loads((last / "training_state.json").read_text())
    digests = state["sha256"]
    assert {"adapter_model.safetensors", "optimizer.safetensors", "learner.json"} <= set(digests)
    for name, digest in digests.items():
        assert sha256_file(last / name) == digest, name
    del state["own_sha256"]
    return state


def records(run: Run, *, tries: bool = True) -> dict[str, Any]:
    """Metrics without timings, the ledger (without ``tries`` where actors died), and every sample."""
    metrics = [{k: v for k, v in row.items() if not k.startswith(_VARYING)} for row in run.metrics()]
    entries = [
        (step, e.draw, e.prompt_id, e.version, e.outcome, e.tries * tries) for step, e in read_ledger(run.folder)
    ]
    samples = [pq.read_table(path).to_pylist() for path in sorted((run.folder / "samples").glob("*.parquet"))]
    return {"metrics": metrics, "ledger": entries, "samples": samples}


def check_whole(run: Run, steps: int, *, ahead: int = 0) -> list[tuple[int, Entry]]:
    """All steps are there, once; no draw was lost or learnt from twice: what the last checkpoint knows to be on its way
    is what the ledger lacks. Returns the ledger."""
    assert [row["step"] for row in run.metrics()] == list(range(1, steps + 1))
    entries = read_ledger(run.folder)
    assert check_ledger(entries, ahead=ahead) == []
    assert {step for step, _ in entries} == set(range(1, steps + 1))
    state = json.loads((run.folder / "checkpoints" / "last" / "training_state.json").read_text())
    assert state["step"] == steps
    used = {entry.draw for _, entry in entries if entry.outcome != "dropped"}
    assert sorted(set(range(state["batches"]["next_draw"])) - used) == state["batches"]["again"]
    return entries


def deaths(run: Run, role: str) -> list[str]:
    """The lines that tell of a role's deaths."""
    return [line for line in run.said.splitlines() if line.startswith(f"{role} actor") and " died (" in line]


def said_by_user(draw: int) -> str:
    """What the user says in the prompt of a draw of the shipped prompts, seed 0."""
    prompts = read_prompts(resolve("builtin:prompts/en.jsonl"))
    return prompts[shuffled(draw, len(prompts), seed=0, stream=USER_PROMPTS)].text

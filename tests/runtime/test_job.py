"""The README's cluster recipe on a head of this machine: a job runs to its end, a mistake ends it with one line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Ray head on the loopback interface with token authentication, in a process group of its own."""
    home = tmp_path_factory.mktemp("home")
    dashboard = free_port()
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "RLRP_CACHE": os.environ.get("RLRP_CACHE", str(Path.home() / ".cache" / "rlrp")),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without it, Ray takes the machine's address for 127.0.0.1
    }
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    command = [BIN / "ray", "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(free_port())]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "4"]
    # Ray's defaults, of which a machine has one: another cluster may have them.
    for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"):
        command += [f"--{name}", str(free_port())]
    command += ["--object-store-memory", "200000000", "--temp-dir", str(tmp_path_factory.mktemp("ray"))]
    log = (home / "head.log").open("w")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    env["RAY_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_until_up(env, process)
        yield env
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_up(env: dict[str, str], process: subprocess.Popen[bytes]) -> None:
    for _ in range(60):
        if process.poll() is not None:
            raise RuntimeError(f"ray start ended with {process.returncode}")
        if subprocess.run([BIN / "ray", "job", "list"], env=env, capture_output=True).returncode == 0:
            return
        time.sleep(2)
    raise RuntimeError("the head's job server did not come up in two minutes")


def submit(
    env: dict[str, str], folder: Path, *command: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    options = options or ["--working-dir", str(folder)]
    for _ in range(30):
        done = subprocess.run(
            [BIN / "ray", "job", "submit", *options, "--", *command],
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=540,
        )
        if "No available agent to submit job, please try again" not in done.stderr:
            break
        time.sleep(2)  # the head answers before its agent is there
    return done


def exit_code(done: subprocess.CompletedProcess[str]) -> int:
    """The job's own: ``ray job submit`` itself ends with 0 or 1, and its last lines say with what the job did."""
    found = re.search(r"failed with exit code (\d+)", done.stdout + done.stderr)
    assert done.returncode == (1 if found else 0), done.stdout[-3000:] + done.stderr[-3000:]
    return int(found[1]) if found else 0


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    """What a user's folder holds: an experiment and its reward, without this checkout's .venv and runs."""
    folder = tmp_path / "job"
    (folder / "experiments" / "rewards").mkdir(parents=True)
    for name in ("smoke.yaml", "rewards/rules.yaml"):
        (folder / "experiments" / name).write_text((ROOT / "experiments" / name).read_text(encoding="utf-8"))
    return folder


@pytest.mark.slow
def test_a_mistake_in_the_configuration_ends_the_job_with_one_line(head: dict[str, str], working_dir: Path) -> None:
    done = submit(head, working_dir, "rlrp", "train", "experiments/smoke.yaml", "--set", "rl.stepps=1")
    assert exit_code(done) == 2
    assert "unknown key 'stepps'; did you mean 'steps'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout


LOOK = """
import json, os, sys
import ray
from rlrp.cli import _quiet_libraries
_quiet_libraries()
names = ("TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "HF_HUB_OFFLINE")
ray.init(log_to_driver=False, logging_level="error")
there = ray.get(ray.remote(lambda: {name: os.environ.get(name) for name in names}).remote())
files = sorted(os.path.relpath(os.path.join(at, name)) for at, _, names_ in os.walk(".") for name in names_)
print("LOOK" + json.dumps({"files": files, "here": {name: os.environ.get(name) for name in names}, "there": there}))
sys.exit(7)
"""


def looked(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOOK")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(lines[0].removeprefix("LOOK"))
    return found


@pytest.fixture
def full_dir(working_dir: Path) -> Path:
    """A folder as it is after some work: with weights, runs and a .git, which are too large to be sent."""
    for name in ("runs/demo/model.safetensors", ".git/pack", "weights.safetensors"):
        (working_dir / name).parent.mkdir(parents=True, exist_ok=True)
        with (working_dir / name).open("wb") as stream:
            stream.truncate(600 << 20)  # more than Ray takes
    (working_dir / "look.py").write_text(LOOK, encoding="utf-8")
    return working_dir


@pytest.mark.slow
def test_rayignore_keeps_what_is_large_at_home_and_the_exit_code_comes_back(
    head: dict[str, str], full_dir: Path
) -> None:
    (full_dir / ".rayignore").write_text((ROOT / ".rayignore").read_text(encoding="utf-8"), encoding="utf-8")
    done = submit(head, full_dir, "python", "look.py")
    assert exit_code(done) == 7
    found = looked(done)
    assert set(found["files"]) - {".rayignore"} == {
        "experiments/rewards/rules.yaml",
        "experiments/smoke.yaml",
        "look.py",
    }
    # Nobody set these: the driver has our own, its tasks what Ray gives them.
    assert found["here"]["TOKENIZERS_PARALLELISM"] == "false"


@pytest.mark.slow
def test_the_runtime_environments_excludes_and_variables_hold(head: dict[str, str], full_dir: Path) -> None:
    text = (ROOT / "experiments" / "cluster" / "runtime_env.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    raw["env_vars"] |= {"TOKENIZERS_PARALLELISM": "true", "TRANSFORMERS_VERBOSITY": "info"}
    (full_dir / "env.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    done = submit(head, full_dir, "python", "look.py", options=["--runtime-env", "env.yaml"])
    assert exit_code(done) == 7
    found = looked(done)
    assert not [name for name in found["files"] if "runs" in name or ".git" in name or name.endswith(".safetensors")]
    # What the user set stays as it is, in the driver and in the actors, though rlrp has defaults of its own for it.
    wanted = {"TOKENIZERS_PARALLELISM": "true", "TRANSFORMERS_VERBOSITY": "info", "HF_HUB_OFFLINE": "0"}
    assert found["here"] == found["there"] == wanted


@pytest.mark.slow
def test_a_dry_run_as_a_job_and_from_outside_says_whether_it_fits(head: dict[str, str], working_dir: Path) -> None:
    plan = ["rlrp", "train", "experiments/smoke.yaml", "--dry-run"]
    done = submit(head, working_dir, *plan)
    assert exit_code(done) == 0 and "fits, all at once" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    done = submit(head, working_dir, *plan, "--set", "cluster.rollout.cpus=4.5")
    assert exit_code(done) == 2 and "rollout: 1 of 1 find no place" in done.stdout
    command = [BIN / "rlrp", *plan[1:], "--set", "cluster.rollout={actors: 9, cpus: 0.5}"]
    outside = subprocess.run(command, env=head, cwd=working_dir, capture_output=True, text=True, timeout=120)
    assert outside.returncode == 2, outside.stderr
    assert f"does not fit the cluster at {head['RAY_ADDRESS']}" in outside.stderr


@pytest.mark.slow
def test_without_the_token_there_is_one_line(head: dict[str, str], working_dir: Path, tmp_path: Path) -> None:
    command = [BIN / "rlrp", "train", "experiments/smoke.yaml", "--dry-run"]
    env = head | {"HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, cwd=working_dir, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("rlrp: ")]
    assert len(said) == 1 and "token" in said[0] and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_submitted_job_trains_to_its_end(head: dict[str, str], working_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["rlrp", "train", "experiments/smoke.yaml", "--set", "rl.steps=2", "--set", f"run_dir={run}"]
    done = submit(head, working_dir, *command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "step   2" in done.stdout
    assert (run / "checkpoints" / "last" / "adapter_model.safetensors").exists()
    status = subprocess.run([BIN / "rlrp", "status", str(run), "--json"], env=head, capture_output=True, text=True)
    assert json.loads(status.stdout)["state"] == "finished", status.stdout + status.stderr

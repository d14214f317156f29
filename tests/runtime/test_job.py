"""The README's cluster recipe on a head of this machine: a job runs to its end, a mistake ends it with one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    }
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    command = [BIN / "ray", "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(free_port())]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--num-cpus", "4"]
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


def submit(env: dict[str, str], folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "ray", "job", "submit", "--working-dir", str(folder), "--", *command],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=540,
    )


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
    assert done.returncode != 0
    assert "unknown key 'stepps'; did you mean 'steps'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_a_submitted_job_trains_to_its_end(head: dict[str, str], working_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["rlrp", "train", "experiments/smoke.yaml", "--set", "rl.steps=2", "--set", f"run_dir={run}"]
    done = submit(head, working_dir, *command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "step   2" in done.stdout
    assert (run / "checkpoints" / "last" / "adapter_model.safetensors").exists()

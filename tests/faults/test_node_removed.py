"""A whole node of a simulated cluster goes, with the actors on it, and another comes later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from .conftest import MakeRun
from .runs import MANY, Run, check_whole, deaths, final_state, python_path, ray_folder, records

pytestmark = pytest.mark.faults
NODE = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "object_store_memory": 100 << 20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that has room for one set of workers, on the loopback interface."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TMPDIR", ray_folder())
    monkeypatch.setenv("PYTHONPATH", python_path())  # nodes import a user's classes by themselves
    made = Cluster(initialize_head=True, head_node_args=NODE)
    yield made
    made.shutdown()


def _joins(cluster: Cluster) -> dict[str, str]:
    """With the second, Ray takes 127.0.0.1 for this machine's address, as it does where ``rlrp`` starts Ray itself."""
    return {"RAY_ADDRESS": cluster.address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@pytest.mark.parametrize(
    ("pinned", "real"),
    [(("rollout", "reward"), True), (("learner",), False), (("rollout", "reward", "learner"), False)],
    ids=["rollout and reward", "learner", "all"],
)
def test_a_run_outlives_a_node_with_its_actors(
    cluster: Cluster,
    make_run: MakeRun,
    smollm2: str,
    tiny: str,
    undisturbed: Callable[..., Run],
    pinned: tuple[str, ...],
    real: bool,
) -> None:
    model = smollm2 if real else tiny
    # The adapter is large enough for weights to lie on the learner's node alone, and so to be lost with it.
    steps = 8 if real else 12
    settings = (f"rl.steps={steps}", "rl.checkpoint_every=2", *(() if real else ("rl.lora.r=512",)))
    node: dict[str, Any] = {**NODE, "resources": {"spot": 4}}
    del node["include_dashboard"]
    spot = cluster.add_node(**node)
    pins = [f"cluster.{role}.resources={{spot: 1}}" for role in pinned]
    # Pins are no part of what is learnt: the undisturbed run goes without.
    run = make_run(*settings, *pins, model=model, env=_joins(cluster)).start()
    run.wait_for_step(3)
    cluster.remove_node(spot)
    run.wait("a line that tells of it", lambda: any(deaths(run, role) for role in pinned))
    time.sleep(2)
    cluster.add_node(**node)
    run.end()
    check_whole(run, steps)
    for role in pinned:
        assert deaths(run, role)
    whole = undisturbed(model, *settings)
    assert final_state(run) == final_state(whole)
    assert records(run, tries=False) == records(whole, tries=False)


def test_a_run_whose_ray_dies_ends_and_goes_on_when_told_again(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run]
) -> None:
    run = make_run(*MANY).start()
    run.wait_for_step(2)
    assert run.process is not None
    (raylet,) = [p for p in psutil.Process(run.process.pid).children() if p.name() == "raylet"]
    raylet.kill()
    run.end(1)
    # Whichever is first: Ray ends the process as soon as it is needed in it, or we find no node.
    assert "Raylet is terminated" in run.said and "Traceback" not in run.said
    run.start().end()
    check_whole(run, 12)
    assert final_state(run) == final_state(undisturbed(tiny, *MANY))

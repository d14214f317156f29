"""Nodes as a configuration declares them, as a cluster file has them, as Ray reports them; what is asked of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlrp.config import ClusterConfig
from rlrp.errors import UserError
from rlrp.runtime.nodes import cluster_asks, declared_nodes, growth_asks, node_of, read_nodes
from rlrp.runtime.packing import pack

ROOT = Path(__file__).parents[2]


def cluster(**keys: object) -> ClusterConfig:
    return ClusterConfig.model_validate(keys)


def test_declared_nodes() -> None:
    config = cluster(nodes=[{"count": 2, "cpus": 96, "gpus": 8, "memory_gb": 800, "gpu_memory_gb": 80}, {"cpus": 8}])
    nodes = declared_nodes(config.nodes)
    assert [node.name for node in nodes] == ["node 1", "node 2", "node 3"]
    assert nodes[0].capacity["GPU"] == 8 and nodes[0].gpu_memory_gb == 80
    # Of 800 GB, 30 % would be 240 for the object store, which takes 200 at most.
    assert nodes[0].capacity["memory"] == 600
    # Where no memory is named, none is missing.
    assert pack([nodes[2]], cluster_asks(cluster(rollout={"memory_gb": 500, "cpus": 1}))).fits


def test_a_smaller_machine_gives_seven_tenths_of_its_memory() -> None:
    (node,) = declared_nodes(cluster(nodes=[{"cpus": 8, "memory_gb": 100}]).nodes)
    assert node.capacity["memory"] == pytest.approx(70)


def test_the_shipped_cluster_file_has_a_head_and_its_workers() -> None:
    nodes = read_nodes(ROOT / "ray_cluster.yaml")
    assert [node.capacity.get("GPU", 0) for node in nodes] == [0] + [1] * 8


def test_a_file_of_nodes(tmp_path: Path) -> None:
    path = tmp_path / "nodes.yaml"
    path.write_text("nodes:\n  - {count: 3, cpus: 4}\n", encoding="utf-8")
    assert len(read_nodes(path)) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes:\n  - {count: 3}\n", "nodes.0.cpus"),
        ("nodes:\n  - {cpus: 3, gpu: 1}\n", "nodes.0.gpu"),
        ("a: [", "is not YAML"),
        ("a: 1\n", "names no nodes"),
        ("available_node_types: {gpu: {min_workers: 1}}\n", "available_node_types.gpu.resources: missing"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "nodes.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        read_nodes(path)


def test_a_node_as_ray_reports_it() -> None:
    total = {
        "CPU": 96.0,
        "GPU": 8.0,
        "memory": 6e11,
        "object_store_memory": 2e11,
        "node:10.0.0.7": 1.0,
        "node:__internal_head__": 1.0,
        "accelerator_type:H100": 1.0,
        "fast_disk": 2.0,
    }
    node = node_of("10.0.0.7", total, {"GPU": [1.5, 8.0], "memory": [1e11, 6e11], "CPU": [0.0, 96.0]})
    assert node.capacity == {"CPU": 96, "GPU": 8, "memory": 600, "fast_disk": 2}
    assert node.used == {"CPU": 0, "GPU": 1.5, "memory": 100}
    assert node.gpu_memory_gb == 80


def test_what_a_cluster_is_asked_for() -> None:
    config = cluster(
        rollout={"actors": 3, "cpus": 4, "gpus": 1, "resources": {"fast": 1}, "max_actors": 5},
        reward={"actors": 2, "cpus": 1, "memory_gb": 8},
        learner={"actors": 2, "cpus": 8, "gpus": 1},
    )
    asks = cluster_asks(config)
    assert [ask.name for ask in asks] == ["rollout"] * 3 + ["reward"] * 2 + ["learner"] * 2
    assert asks[0].amounts == {"CPU": 4, "GPU": 1, "fast": 1} and asks[3].amounts == {"CPU": 1, "memory": 8}
    assert len(growth_asks(config, "rollout")) == 2 and growth_asks(config, "reward") == []


def test_colocated_pairs_are_asked_for_as_one() -> None:
    half = {"cpus": 2, "gpus": 0.5}
    asks = cluster_asks(
        cluster(rollout={"actors": 3, **half}, learner={"actors": 2, **half}, colocate=True, placement="PACK")
    )
    assert [ask.name for ask in asks] == ["rollout+learner"] * 2 + ["rollout", "reward"]
    assert asks[0].amounts == {"CPU": 4, "GPU": 1}

"""The shipped cluster files: Ray's own schema, what KubeRay asks for, and that the dry run can read them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from rlrp.cli import _parser
from rlrp.errors import UserError
from rlrp.runtime.kuberay import quantity
from rlrp.runtime.nodes import read_nodes

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "cluster"
CLUSTERS = [ROOT / "ray_cluster.yaml", FOLDER / "on_premise.yaml"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_rays_schema_takes_the_cluster_file(path: Path) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(read(path), schema)
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):  # the schema does look at the keys
        jsonschema.validate(read(path) | {"max_wokers": 1}, schema)


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_ray_up_takes_the_cluster_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(read(path))  # what `ray up` does before it talks with any machine
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert all(kind["min_workers"] <= kind["max_workers"] <= prepared["max_workers"] for kind in types.values())
    if path.name == "on_premise.yaml":
        assert types["local.cluster.node"]["max_workers"] == len(prepared["provider"]["worker_ips"])


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_the_cluster_file_holds_together(path: Path) -> None:
    raw = read(path)
    for commands in (raw["head_start_ray_commands"], raw["worker_start_ray_commands"]):
        assert commands[0] == "ray stop" and "RAY_AUTH_MODE=token" in commands[1]
    assert "--dashboard-host=127.0.0.1" in raw["head_start_ray_commands"][1]
    # What the setup installs from is what is copied there.
    assert raw["file_mounts"]["~/rlrp"] == "." and any(c.endswith(" ~/rlrp") for c in raw["setup_commands"])


def test_the_dry_run_reads_the_cloud_file_and_says_why_not_the_other() -> None:
    cloud = read_nodes(CLUSTERS[0])
    assert sum(node.capacity.get("GPU", 0) for node in cloud) == 8 and {n.gpu_memory_gb for n in cloud} == {None, 48}
    with pytest.raises(UserError, match=r"provider.worker_ips: .* declare them as `cluster.nodes`"):
        read_nodes(CLUSTERS[1])


def test_the_rayjob_has_what_kuberay_needs() -> None:
    job = read(FOLDER / "rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    allowed = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "runtimeEnvYAML"}
    assert set(spec) == allowed | {"rayClusterSpec"}
    assert isinstance(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"], dict)
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__ and cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            # Ray counts limits alone; Kubernetes hands out GPUs only where both agree.
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_dry_run_reads_the_rayjob() -> None:
    nodes = read_nodes(FOLDER / "rayjob.yaml")
    # The head has no GPU, and four workers of four.
    assert [(node.name, node.capacity["CPU"], node.capacity["GPU"]) for node in nodes] == [
        ("head", 8, 0),
        *[(f"gpu {i}", 32, 4) for i in (1, 2, 3, 4)],
    ]
    assert nodes[0].memory_gb == pytest.approx(32 * 2**30 / 1e9)


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("500m", 0.5), ("2Gi", 2 * 2**30), ("64G", 64e9), (4, 4), ("1.5", 1.5)]
)
def test_quantities_of_kubernetes(text: str | int, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


def test_a_manifest_without_limits_is_refused(tmp_path: Path) -> None:
    job = read(FOLDER / "rayjob.yaml")
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    with pytest.raises(UserError, match=r"workerGroupSpecs\.gpu: has no limits that can be read"):
        read_nodes(tmp_path / "job.yaml")


def test_the_rayjobs_command_is_one() -> None:
    command = shlex.split(read(FOLDER / "rayjob.yaml")["spec"]["entrypoint"])
    assert command[0] == "rlrp"
    assert _parser().parse_args(command[1:]).config == "/runs/mine.yaml"


def test_the_runtime_environment_is_one_of_rays() -> None:
    from ray.runtime_env import RuntimeEnv

    raw = read(FOLDER / "runtime_env.yaml")
    parsed = RuntimeEnv(
        **(raw | {"working_dir": "https://example.com/job.zip"})
    )  # a path is uploaded before it is checked
    assert parsed["env_vars"] == raw["env_vars"] and "/.git/" in raw["excludes"]
    assert raw["working_dir"] == "."

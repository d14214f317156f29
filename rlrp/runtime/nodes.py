"""The nodes that a placement is checked against: of a running cluster, of a declared one, of a cluster file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rlrp.config import ClusterConfig, NodeConfig
from rlrp.errors import UserError, first_line
from rlrp.files import read_text
from rlrp.runtime.kuberay import is_manifest, manifest_nodes
from rlrp.runtime.packing import Ask, Node

GB = 1e9
CARD_MEMORY_GB = {
    "T4": 16, "V100": 16, "P100": 16, "A10G": 24, "L4": 24, "L40S": 48, "A100": 40, "A100-40G": 40, "A100-80G": 80,
    "H100": 80, "H20": 96, "H200": 141, "B200": 180, "GB200": 186,
}  # fmt: skip
"""By the accelerator types that Ray finds by itself; of cards with two sizes the smaller."""


_NO_LIMIT_GB = 1e6
"""Where nobody says how much memory a machine has, it is no reason against a placement."""


def ray_memory_gb(machine_gb: float) -> float:
    """What Ray lets actors reserve of a machine's memory: all but the object store's 30 %, at most 200 GB."""
    return machine_gb - min(0.3 * machine_gb, 200.0)


def declared_nodes(nodes: list[NodeConfig]) -> list[Node]:
    """``cluster.nodes`` of a configuration, one entry a machine."""
    found: list[Node] = []
    for kind in nodes:
        memory = ray_memory_gb(kind.memory_gb) if kind.memory_gb else _NO_LIMIT_GB
        capacity = {"CPU": kind.cpus, "GPU": float(kind.gpus), "memory": memory, **kind.resources}
        for _ in range(kind.count):
            name = f"node {len(found) + 1}"
            found.append(Node(name, capacity, memory_gb=kind.memory_gb, gpu_memory_gb=kind.gpu_memory_gb))
    return found


def read_nodes(path: str | Path) -> list[Node]:
    """The nodes in a YAML file: a list of ``nodes`` as in ``cluster.nodes``, a cluster file of ``ray up`` or a KubeRay
    manifest, with every kind of node at its largest.

    Raises:
        UserError: none of them, or a node type that does not say its resources.
    """
    try:
        raw = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"is not YAML: {getattr(error, 'problem', error)}", file=path) from None
    if isinstance(raw, dict) and isinstance(raw.get("nodes"), list):
        try:
            return declared_nodes(ClusterConfig.model_validate({"nodes": raw["nodes"]}).nodes)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UserError(f"got {first['input']!r}: {first['msg']}", file=path, place=place) from None
    if isinstance(raw, dict) and isinstance(raw.get("available_node_types"), dict):
        return _nodes_of_types(raw, path)
    if is_manifest(raw):
        return [
            Node(name, capacity | {"memory": ray_memory_gb(memory) if memory else _NO_LIMIT_GB}, memory_gb=memory)
            for name, capacity, memory in manifest_nodes(raw, path)
        ]
    if isinstance(raw, dict) and (raw.get("provider") or {}).get("type") == "local":
        message = "does not say what its machines have; declare them as `cluster.nodes` in the experiment"
        raise UserError(message, file=path, place="provider.worker_ips")
    raise UserError(
        "names no nodes: expected `nodes` as in `cluster.nodes`, `available_node_types` or a RayJob", file=path
    )


def _nodes_of_types(raw: Mapping[str, Any], path: str | Path) -> list[Node]:
    found: list[Node] = []
    for name, kind in raw["available_node_types"].items():
        resources = kind.get("resources")
        if not isinstance(resources, dict) or "CPU" not in resources:
            place = f"available_node_types.{name}.resources"
            raise UserError("missing; the check needs CPU and GPU of every node type", file=path, place=place)
        count = 1 if name == raw.get("head_node_type") else kind.get("max_workers", raw.get("max_workers", 1))
        capacity, card = _capacity(resources)
        found += [Node(f"{name} {i + 1}" if count > 1 else name, capacity, gpu_memory_gb=card) for i in range(count)]
    return found


def running_nodes() -> list[Node]:
    """The live nodes of the cluster that RAY_ADDRESS names (a dashboard's URL or a head's address), read through its
    dashboard's API: nothing joins the cluster and nothing is started.

    Raises:
        UserError: the cluster does not answer, or wants a token that is not there.
    """
    from ray.dashboard.modules.dashboard_sdk import SubmissionClient
    from ray.dashboard.utils import get_address_for_submission_client
    from ray.util.state import list_nodes

    named = os.environ.get("RAY_ADDRESS", "")
    try:
        address = get_address_for_submission_client(None)
        nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")], detail=True, limit=10_000, timeout=20)
        answer = SubmissionClient(address)._do_request("GET", "/api/cluster_status")
        answer.raise_for_status()
    except Exception as error:  # of many kinds: sockets, HTTP, Ray's own, by where it was lost
        raise UserError(
            f"the cluster does not answer: {first_line(error, 120)}; is it up, and is its token in RAY_AUTH_TOKEN or "
            "~/.ray/auth_token (with RAY_AUTH_MODE=token)?",
            place=f"RAY_ADDRESS={named}",
        ) from error
    report = ((answer.json().get("data") or {}).get("clusterStatus") or {}).get("loadMetricsReport") or {}
    usage = report.get("usageByNode") or {}
    return [node_of(node.node_ip, node.resources_total, usage.get(node.node_id, {})) for node in nodes]


def node_of(name: str, total: Mapping[str, float], usage: Mapping[str, Any]) -> Node:
    """A node as Ray describes it: amounts in its units, ``usage`` as (used, total) by resource."""
    capacity, card = _capacity(total)
    used = {kind: float(usage[kind][0]) for kind in ("CPU", "GPU", "memory") if kind in usage}
    if "memory" in used:
        used["memory"] /= GB
    return Node(name, capacity, used, gpu_memory_gb=card)


def _capacity(resources: Mapping[str, float]) -> tuple[dict[str, float], float | None]:
    """Amounts with the memory in GB, without what Ray keeps for itself; and the memory of a card of that type."""
    hidden = ("node:", "object_store_memory", "accelerator_type:")
    amounts = {name: float(amount) for name, amount in resources.items() if not name.startswith(hidden)}
    amounts["memory"] = amounts["memory"] / GB if "memory" in amounts else _NO_LIMIT_GB
    types = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return amounts, next((CARD_MEMORY_GB[name] for name in types if name in CARD_MEMORY_GB), None)


def cluster_asks(cluster: ClusterConfig) -> list[Ask]:
    """What a configuration asks for, an entry per actor; with ``colocate``, one per pair of rollout and learner."""
    pools = {"rollout": cluster.rollout, "reward": cluster.reward, "learner": cluster.learner}
    alone = {name: worker.actors for name, worker in pools.items()}
    asks: list[Ask] = []
    if cluster.colocate:
        pairs = min(alone["rollout"], alone["learner"])
        both = _amounts(cluster.rollout)
        for kind, amount in _amounts(cluster.learner).items():
            both[kind] = both.get(kind, 0.0) + amount
        asks += [Ask(("rollout", "learner"), both)] * pairs
        alone["rollout"] -= pairs
        alone["learner"] -= pairs
    return asks + [Ask((name,), _amounts(worker)) for name, worker in pools.items() for _ in range(alone[name])]


def growth_asks(cluster: ClusterConfig, pool: str) -> list[Ask]:
    """The actors by which autoscaling may add to a pool."""
    worker = {"rollout": cluster.rollout, "reward": cluster.reward, "learner": cluster.learner}[pool]
    return [Ask((pool,), _amounts(worker))] * ((worker.max_actors or worker.actors) - worker.actors)


def _amounts(worker: Any) -> dict[str, float]:
    amounts = {"CPU": worker.cpus, "GPU": worker.gpus, "memory": worker.memory_gb or 0.0, **worker.resources}
    return {name: amount for name, amount in amounts.items() if amount}

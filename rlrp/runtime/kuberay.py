"""The nodes of a KubeRay manifest (RayCluster or RayJob): each pod is one, every worker group at its largest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlrp.errors import UserError

_SUFFIXES = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SUFFIXES |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_GPUS = ("nvidia.com/gpu", "amd.com/gpu")


def is_manifest(raw: Any) -> bool:
    return isinstance(raw, dict) and raw.get("kind") in ("RayCluster", "RayJob")


def manifest_nodes(raw: Mapping[str, Any], path: str | Path) -> list[tuple[str, dict[str, float], float | None]]:
    """Name, capacity (CPU and GPU) and memory in GB of each pod.

    Raises:
        UserError: a group has no container with limits, of which Ray counts what a pod has.
    """
    spec = raw.get("spec") or {}
    cluster = spec.get("rayClusterSpec") if raw["kind"] == "RayJob" else spec
    if not isinstance(cluster, dict) or "headGroupSpec" not in cluster:
        raise UserError("has no headGroupSpec", file=path)
    found = [("head", *_pod(cluster["headGroupSpec"], "headGroupSpec", path))]
    for group in cluster.get("workerGroupSpecs") or []:
        name, count = str(group.get("groupName", "worker")), int(group.get("maxReplicas", group.get("replicas", 1)))
        pod = _pod(group, f"workerGroupSpecs.{name}", path)
        found += [(f"{name} {i + 1}", *pod) for i in range(count)]
    return found


def quantity(text: str | int | float) -> float:
    """A quantity of Kubernetes: ``500m`` is 0.5, ``2Gi`` is 2 * 2^30."""
    digits = str(text).rstrip("".join(_SUFFIXES))
    return float(digits) * _SUFFIXES[str(text)[len(digits) :]]


def _pod(group: Mapping[str, Any], place: str, path: str | Path) -> tuple[dict[str, float], float | None]:
    try:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        start = group.get("rayStartParams") or {}
        gpus = sum(quantity(limits[name]) for name in _GPUS if name in limits)
        capacity = {
            "CPU": float(start.get("num-cpus", quantity(limits["cpu"]))),
            "GPU": float(start.get("num-gpus", gpus)),
        }
        return capacity, quantity(limits["memory"]) / 1e9 if "memory" in limits else None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"has no limits that can be read: {error!r}", file=path, place=place) from None

"""The Ray cluster: joining it or starting one, and reserving a run's places in it together."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import ray

from rlrp.errors import UserError
from rlrp.runtime.actors import Placement

Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


def connect(*, whole_weights: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS or a submitted job names, or start Ray on this machine.

    Args:
        whole_weights: a model's weights will travel, not an adapter's: a Ray of our own gets the store of Ray's choice.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True, logging_level="warning")
    else:
        # Everything stays on this machine: no dashboard, no port beyond the loopback interface. For an adapter and text
        # a small object store is ample.
        ray.init(
            address="local",  # not a cluster that somebody started on this machine for something else
            include_dashboard=False,
            log_to_driver=True,
            logging_level="error",
            object_store_memory=None if whole_weights else 200 << 20,
            _node_ip_address="127.0.0.1",
        )


def disconnect() -> None:
    if ray.is_initialized():
        ray.shutdown()


def reserve(
    placements: Mapping[str, Placement], strategy: Strategy, *, colocate: bool = False, wait_s: float = 1800.0
) -> dict[str, Placement]:
    """Reserve the places of all pools' actors together, so that no run starts that another keeps from going on.

    Every actor has a bundle of its own; with ``colocate`` rollout actor i and learner worker i share one, and so a
    node, and a GPU if their shares of one add up to it.

    Raises:
        UserError: the cluster has no such room for ``wait_s`` seconds.
    """
    bundles: list[dict[str, float]] = []
    places: dict[str, list[int]] = {}
    for name, placement in placements.items():
        shared = places.get("rollout", []) if colocate and name == "learner" else []
        for index in range(placement.actors):
            if index < len(shared):
                place = shared[index]
            else:
                place = len(bundles)
                bundles.append({})
            places.setdefault(name, []).append(place)
            for resource, amount in _resources(placement).items():
                bundles[place][resource] = bundles[place].get(resource, 0.0) + amount
    group = ray.util.placement_group(bundles, strategy=strategy)
    ready, waited = group.ready(), 0.0
    while not ray.wait([ready], timeout=30)[0]:
        waited += 30
        if waited >= wait_s:
            ray.util.remove_placement_group(group)
            raise UserError(
                f"the cluster has no room for {len(bundles)} bundles ({strategy}) after {wait_s:g} s; "
                "`rlrp train --dry-run` says what is missing",
                place="cluster",
            )
        print(f"waiting for room on the cluster: {len(bundles)} bundles ({strategy})", file=sys.stderr, flush=True)
    return {name: replace(p, group=group, bundles=tuple(places[name])) for name, p in placements.items()}


def _resources(placement: Placement) -> dict[str, float]:
    needs = {"CPU": placement.cpus, "GPU": placement.gpus, "memory": (placement.memory_gb or 0) * 1e9}
    return {name: amount for name, amount in {**needs, **placement.resources}.items() if amount}

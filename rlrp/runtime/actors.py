"""One actor: what it asks of the cluster, how it holds its worker, how its answers and its death reach the driver."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from rlrp.errors import RunStopped
from rlrp.memory import keep_freed_memory

GONE = (RayActorError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
"""What Ray raises where an actor, its node or its answer is lost; the same work can be done elsewhere."""


@dataclass(frozen=True)
class Placement:
    """What one pool asks of the cluster, per actor."""

    actors: int = 1
    most: int | None = None
    """How many it may grow to while work waits; None: it does not grow."""
    cpus: float = 0.5
    gpus: float = 0.0
    memory_gb: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    group: Any = None
    """A Ray placement group that the first ``actors`` actors have their places in."""
    bundles: tuple[int, ...] = ()
    """Which bundle of ``group`` each of them takes."""

    def options(self, index: int) -> dict[str, Any]:
        """Ray's options for the actor of a number; beyond the group's bundles it lies wherever there is room."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory_gb:
            options["memory"] = int(self.memory_gb * 1e9)
        if self.resources:
            options["resources"] = dict(self.resources)
        if self.group is not None and index < len(self.bundles):
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                placement_group=self.group, placement_group_bundle_index=self.bundles[index]
            )
        return options


class ClusterLost(RunStopped):
    """Ray itself is gone; whatever is started anew would wait for it in vain."""


def check_nodes() -> None:
    """Refuse to wait for a cluster of which nothing is left.

    Raises:
        ClusterLost: no node is alive.
    """
    if not any(node["Alive"] for node in ray.nodes()):
        raise ClusterLost("Ray has died: no node of its cluster is left; the same command goes on from the checkpoint")


class Host:
    """The actor that holds a worker. It builds the worker in a call of its own: an error there reaches the caller as
    what it is, where one raised in an actor's constructor only says that the actor died."""

    def __init__(self, make: Callable[[], Any]):
        self.make = make

    def start(self) -> None:
        keep_freed_memory()
        self.worker = self.make()

    def do(self, method: str, *args: Any) -> Any:
        return getattr(self.worker, method)(*args)


def host(role: str) -> type[Host]:
    """:class:`Host` under the name of what it hosts: process titles, Ray's logs and its dashboard show it."""
    return type(role.capitalize(), (Host,), {})


def call(reference: Any, timeout_s: float | None = None) -> Any:
    """``ray.get`` that raises what the worker raised, not Ray's wrapper around it.

    Raises:
        GetTimeoutError: no answer for ``timeout_s`` seconds.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        raise error.cause from error


def tell(line: str) -> None:
    """A line for whoever watches the run, beside what goes to its records."""
    print(line, file=sys.stderr, flush=True)


def cause_of(error: BaseException) -> str:
    """What Ray says of a death, in one line: which process, on which machine, and how it ended.

    Of an actor's death Ray tells in a line that it died, indented lines of facts, and then the cause with guesses.
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    facts = dict(line.strip().split(": ", 1) for line in lines if line.startswith("\t") and ": " in line)
    said = [line.strip() for line in lines if not line.startswith("\t")]
    if not said:
        return type(error).__name__
    cause = said[1] if "pid" in facts and len(said) > 1 else said[0]
    for guesses in (" Some common causes", " There are some potential root causes", " To see information about"):
        cause = cause.partition(guesses)[0]
    where = [f"{name} {facts[name]}" for name in ("pid", "ip") if name in facts]
    return " ".join([*where, cause])

"""Whether what a configuration asks for fits a cluster, in words: what goes where, what is missing, what overflows."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlrp.config import ClusterConfig
from rlrp.runtime.nodes import cluster_asks, declared_nodes, growth_asks, read_nodes, running_nodes
from rlrp.runtime.packing import GPU, Ask, Node, Packing, asked, free, pack

UNITS = {"CPU": "CPUs", "GPU": "GPUs", "memory": "GB of memory"}
_UNKNOWN_GB = 1e5
"""Memory beyond this was said by nobody."""


@dataclass(frozen=True)
class Fit:
    """Lines for a person, and in a word why it does not fit (None: it does)."""

    lines: list[str]
    problem: str | None = None


def find_nodes(cluster: ClusterConfig, file: Path | None = None) -> tuple[str, list[Node]] | None:
    """The nodes to check against and what they are called: of ``file``, else of the cluster that RAY_ADDRESS names,
    else those that the configuration declares; None if it declares none."""
    if file:
        return str(file), read_nodes(file)
    if address := os.environ.get("RAY_ADDRESS"):
        return f"the cluster at {address}", running_nodes()
    return ("cluster.nodes", declared_nodes(cluster.nodes)) if cluster.nodes else None


def check_fit(cluster: ClusterConfig, name: str, nodes: Sequence[Node], per_actor_gb: Mapping[str, float]) -> Fit:
    """Pack all actors at once. ``per_actor_gb``: what each pool's actor is estimated to hold, in GB."""
    asks = cluster_asks(cluster)
    packing = pack(nodes, asks, cluster.placement)
    lines = [f"cluster: {name}: {describe(nodes)}"]
    lines += [f"         {line}" for line in _where(nodes, asks, packing)]
    problems = _missing(nodes, asks, packing) if not packing.fits else []
    problems += _too_full(nodes, asks, packing, per_actor_gb)
    if packing.fits:
        lines += [f"         {line}" for line in _growth(cluster, nodes, asks) + _waiting(cluster, nodes, asks)]
    if not problems:
        return Fit([*lines, "         fits, all at once"])
    return Fit([*lines, *(f"missing: {problem}" for problem in problems)], f"does not fit {name}: {problems[0]}")


def describe(nodes: Sequence[Node]) -> str:
    """All nodes in a few words."""
    total = asked_of(node.capacity for node in nodes)
    cards = sorted({node.gpu_memory_gb for node in nodes if node.gpu_memory_gb})
    gpus = f"{total.get(GPU, 0):g} GPUs" + (f" of {' and '.join(f'{card:g}' for card in cards)} GB" if cards else "")
    memory = total.get("memory", 0.0)
    parts = [f"{len(nodes)} node{'s' * (len(nodes) != 1)}", f"{total.get('CPU', 0):g} CPUs", gpus]
    if 0 < memory < _UNKNOWN_GB:
        parts.append(f"{memory:.0f} GB for actors to reserve")
    parts += [f"{amount:g} {kind}" for kind, amount in sorted(total.items()) if kind not in UNITS]
    return ", ".join(parts)


def asked_of(amounts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return asked(Ask((), one) for one in amounts)


def _where(nodes: Sequence[Node], asks: Sequence[Ask], packing: Packing) -> list[str]:
    """A line per kind of node, nodes that hold the same together."""
    held: dict[int, Counter[str]] = defaultdict(Counter)
    for ask, place in zip(asks, packing.places, strict=True):
        if place:
            held[place.node][ask.name] += 1
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for i, node in enumerate(nodes):
        what = ", ".join(f"{count} x {name}" for name, count in sorted(held[i].items())) or "nothing"
        size = f"{node.capacity.get('CPU', 0):g} CPUs, {node.capacity.get(GPU, 0):g} GPUs"
        alike[size, what].append(node.name)
    return [f"{_names(names)} ({size}): {what}" for (size, what), names in alike.items()]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, … {names[-1]} ({len(names)} alike)"


def _missing(nodes: Sequence[Node], asks: Sequence[Ask], packing: Packing) -> list[str]:
    """Per pool that does not find its place, what is short: of all nodes together, or of any single one."""
    wanted, there = asked(asks), free(nodes)
    short = {name: amount - there.get(name, 0.0) for name, amount in wanted.items()}
    short = {name: amount for name, amount in short.items() if amount > 1e-9}
    left = [ask for ask, place in zip(asks, packing.places, strict=True) if place is None]
    problems = []
    for name in sorted({ask.name for ask in left}):
        without = [ask for ask in left if ask.name == name]
        every = sum(ask.name == name for ask in asks)
        largest = _alone(nodes, without[0])
        problem = f"{name}: {len(without)} of {every} find no place; each asks for {_amounts(without[0].amounts)}"
        if largest:
            problem += f", and no node has more than {_amounts(largest)} free"
        elif lacking := {kind: short[kind] for kind in without[0].amounts if kind in short}:
            problem += f"; {_amounts(lacking)} more would do"
        else:
            problem += "; there is enough in all, but not on single nodes" + ("" if packing.certain else " (as found)")
        problems.append(problem)
    return problems


def _alone(nodes: Sequence[Node], ask: Ask) -> dict[str, float]:
    """What even an empty cluster could not give one such actor: the largest free amount of each resource."""
    if any(pack([node], [ask]).fits for node in nodes):
        return {}
    most = {kind: max((free([node]).get(kind, 0.0) for node in nodes), default=0.0) for kind in ask.amounts}
    return {kind: amount for kind, amount in most.items() if amount < ask.amounts[kind]} or most


def _too_full(
    nodes: Sequence[Node], asks: Sequence[Ask], packing: Packing, per_actor_gb: Mapping[str, float]
) -> list[str]:
    """Cards and machines on which the estimates of what was placed exceed the memory."""
    cards: dict[tuple[int, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    machines: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for ask, place in zip(asks, packing.places, strict=True):
        for pool in ask.pools:
            held = per_actor_gb.get(pool, 0.0)
            if place is None or not held:
                continue
            for gpu in place.gpus:
                cards[place.node, gpu][pool] += held
            if not place.gpus:
                machines[place.node][pool] += held
    problems = []
    for (node, _), on_card in cards.items():
        most = nodes[node].gpu_memory_gb
        if most and sum(on_card.values()) > most:
            problems.append(f"memory of a GPU on {nodes[node].name}: {_held(on_card)}, of {most:g} GB")
    for node, inside in machines.items():
        memory = nodes[node].memory_gb
        if memory and sum(inside.values()) > memory:
            problems.append(f"memory of {nodes[node].name}: {_held(inside)}, of {memory:g} GB")
    return list(dict.fromkeys(problems))


def _growth(cluster: ClusterConfig, nodes: Sequence[Node], asks: Sequence[Ask]) -> list[str]:
    """How far each pool could grow on these nodes, beside all the others as they are."""
    lines = []
    for pool in ("rollout", "reward", "learner"):
        extra = growth_asks(cluster, pool)
        room = next(
            (n for n in range(len(extra), 0, -1) if pack(nodes, [*asks, *extra[:n]], cluster.placement).fits), 0
        )
        if extra:
            lines.append(f"{pool} may grow by {len(extra)} actors; these nodes have room for {room}")
    return lines


def _waiting(cluster: ClusterConfig, nodes: Sequence[Node], asks: Sequence[Ask]) -> list[str]:
    return ["beside what already runs there"] if any(any(node.used.values()) for node in nodes) else []


def _amounts(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{round(amount, 4):g} {UNITS.get(kind, kind)}" for kind, amount in amounts.items())


def _held(held: Mapping[str, float]) -> str:
    return " + ".join(f"{pool} {gb:.1f}" for pool, gb in held.items()) + f" = about {sum(held.values()):.1f} GB"

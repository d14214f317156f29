"""Does a set of actors fit on a set of nodes? Arithmetic alone: no Ray here, and nothing is started.

Amounts are counted as Ray counts them, in units of 1/10000. A node's GPUs are counted one by one: a whole GPU must be
wholly free, and a fraction must come from a single GPU, of which the fullest that still has room gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
UNIT = 10_000
GPU = "GPU"
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Node:
    """A node's capacity: ``CPU``, ``GPU``, ``memory`` (GB, what actors may reserve) and resources of the user's."""

    name: str
    capacity: Mapping[str, float]
    used: Mapping[str, float] = field(default_factory=dict)
    memory_gb: float | None = None
    """The machine's memory, more than actors may reserve; None: not known."""
    gpu_memory_gb: float | None = None
    """Memory of one GPU; None: not known."""


@dataclass(frozen=True)
class Ask:
    """What one actor, or several that share a bundle, ask of a single node."""

    pools: tuple[str, ...]
    amounts: Mapping[str, float]

    @property
    def name(self) -> str:
        return "+".join(self.pools)


@dataclass(frozen=True)
class Place:
    """Where an ask went: the node's index and the indices of the GPUs it has, or has a part of."""

    node: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Packing:
    """``places[i]`` is where ask ``i`` went, None if nowhere. ``certain``: no other packing places everything."""

    places: tuple[Place | None, ...]
    certain: bool = True

    @property
    def fits(self) -> bool:
        return None not in self.places


def pack(nodes: Sequence[Node], asks: Sequence[Ask], strategy: Strategy | None = None, limit: int = 5_000) -> Packing:
    """Place every ask if that can be done, else as many as the first try places.

    Largest first, best fit; on failure other nodes are tried, up to ``limit`` placements. ``SPREAD`` prefers empty
    nodes, the others full ones; the strict strategies allow nothing else.
    """
    if strategy == "STRICT_PACK":
        tries = [_Search([node], asks, None, limit).run() for node in nodes]
        whole = next((i for i, packing in enumerate(tries) if packing.fits), None)
        best = whole if whole is not None else max(range(len(tries)), key=lambda i: _placed(tries[i]), default=None)
        if best is None:
            return Packing((None,) * len(asks))
        places = tuple(place and Place(best, place.gpus) for place in tries[best].places)
        return Packing(places, all(packing.certain for packing in tries))
    return _Search(nodes, asks, strategy, limit).run()


def asked(asks: Iterable[Ask]) -> dict[str, float]:
    """The sum of all amounts."""
    return _sum(ask.amounts for ask in asks)


def free(nodes: Sequence[Node]) -> dict[str, float]:
    """What all nodes have left, together."""
    total = _sum(node.capacity for node in nodes)
    for name, amount in _sum(node.used for node in nodes).items():
        total[name] = total.get(name, 0.0) - amount
    return total


class _Free:
    """What is left of a node, in units; GPUs one by one."""

    def __init__(self, node: Node):
        left = {name: _units(amount) - _units(node.used.get(name, 0)) for name, amount in node.capacity.items()}
        whole = round(node.capacity.get(GPU, 0))
        left.pop(GPU, None)
        taken = _units(node.used.get(GPU, 0))
        self.gpus = [UNIT - min(UNIT, max(0, taken - i * UNIT)) for i in range(whole)]
        self.left, self.asks = left, 0

    def units(self) -> dict[str, int]:
        return {GPU: sum(self.gpus), **self.left}

    def key(self) -> tuple[object, ...]:
        return tuple(sorted(self.gpus)), tuple(sorted(self.left.items())), self.asks

    def take(self, units: Mapping[str, int]) -> tuple[int, ...] | None:
        """The GPUs given, after taking all amounts; None, and nothing taken, if something is short."""
        if any(self.left.get(name, 0) < amount for name, amount in units.items() if name != GPU and amount):
            return None
        gpus = self._find_gpus(units.get(GPU, 0))
        if gpus is None:
            return None
        self._move(units, gpus, -1)
        return gpus

    def give_back(self, units: Mapping[str, int], gpus: tuple[int, ...]) -> None:
        self._move(units, gpus, 1)

    def _find_gpus(self, amount: int) -> tuple[int, ...] | None:
        whole, part = divmod(amount, UNIT)
        chosen = [i for i, left in enumerate(self.gpus) if left == UNIT][:whole]
        if len(chosen) < whole:
            return None
        if part:
            room = [i for i, left in enumerate(self.gpus) if left >= part and i not in chosen]
            if not room:
                return None
            chosen.append(min(room, key=lambda i: (self.gpus[i], i)))
        return tuple(chosen)

    def _move(self, units: Mapping[str, int], gpus: tuple[int, ...], sign: int) -> None:
        for name, amount in units.items():
            if name != GPU and amount:
                self.left[name] += sign * amount
        amount = units.get(GPU, 0)
        for gpu in gpus:
            self.gpus[gpu] += sign * min(UNIT, amount)
            amount -= UNIT
        self.asks -= sign


class _Search:
    """Depth first over the asks, largest first; what cannot be completed from a state is remembered."""

    def __init__(self, nodes: Sequence[Node], asks: Sequence[Ask], strategy: Strategy | None, limit: int):
        self.free = [_Free(node) for node in nodes]
        self.units = [{name: _units(amount) for name, amount in ask.amounts.items()} for ask in asks]
        total = _sum(node.capacity for node in nodes)
        wanted, there = _sum(self.units), _sum(node.units() for node in self.free)
        self.short = any(amount > there.get(name, 0) for name, amount in wanted.items())
        self.order = sorted(range(len(asks)), key=lambda i: self._size(asks[i].amounts, total), reverse=True)
        self.strategy, self.limit, self.spent = strategy, limit, 0
        self.places: list[Place | None] = [None] * len(asks)
        self.hopeless: set[tuple[object, ...]] = set()

    def run(self) -> Packing:
        certain = self.short
        if not self.short:
            if self._complete():
                return Packing(tuple(self.places))
            certain = self.spent < self.limit
        self._greedy()
        return Packing(tuple(self.places), certain)

    def _complete(self) -> bool:
        """Depth first without recursion: a big cluster has more actors than Python has stack."""
        trail: list[list[int]] = [self._candidates(0)] if self.order else []
        while len(trail) <= len(self.order) and trail:
            depth = len(trail) - 1
            self._undo(depth)
            if self.spent >= self.limit or not trail[-1]:
                self.hopeless.add(self._state(depth))
                trail.pop()
                continue
            self._put(depth, trail[-1].pop(0))
            if depth + 1 == len(self.order):
                return True
            trail.append([] if self._state(depth + 1) in self.hopeless else self._candidates(depth + 1))
        return not self.order

    def _candidates(self, depth: int) -> list[int]:
        """Nodes with room for the ask, in the order to try; of nodes in the same state only the first."""
        seen: set[tuple[object, ...]] = set()
        found = []
        for i, node in enumerate(self.free):
            if self.strategy == "STRICT_SPREAD" and node.asks:
                continue
            gpus = node.take(self.units[self.order[depth]])
            if gpus is None:
                continue
            node.give_back(self.units[self.order[depth]], gpus)
            if (key := node.key()) not in seen:
                seen.add(key)
                found.append(i)
        spread = self.strategy in ("SPREAD", "STRICT_SPREAD")
        return sorted(found, key=lambda i: (self._fill(i) if spread else -self._fill(i), sum(self.free[i].gpus), i))

    def _fill(self, node: int) -> int:
        return self.free[node].asks if self.strategy in ("SPREAD", "STRICT_SPREAD") else int(self.free[node].asks > 0)

    def _put(self, depth: int, node: int) -> None:
        ask = self.order[depth]
        gpus = self.free[node].take(self.units[ask])
        assert gpus is not None
        self.places[ask] = Place(node, gpus)
        self.spent += 1

    def _undo(self, depth: int) -> None:
        ask = self.order[depth]
        if place := self.places[ask]:
            self.free[place.node].give_back(self.units[ask], place.gpus)
            self.places[ask] = None

    def _state(self, depth: int) -> tuple[object, ...]:
        return depth, tuple(sorted(repr(node.key()) for node in self.free))

    def _greedy(self) -> None:
        for depth in range(len(self.order)):
            if candidates := self._candidates(depth):
                self._put(depth, candidates[0])

    @staticmethod
    def _size(amounts: Mapping[str, float], total: Mapping[str, float]) -> tuple[float, ...]:
        shares = [amount / total[name] for name, amount in amounts.items() if name != GPU and total.get(name)]
        return amounts.get(GPU, 0.0), max(shares, default=0.0), sum(shares)


def _units(amount: float) -> int:
    return round(amount * UNIT)


def _sum(many: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    total: dict[str, Number] = {}
    for amounts in many:
        for name, amount in amounts.items():
            total[name] = total[name] + amount if name in total else amount
    return total


def _placed(packing: Packing) -> int:
    return sum(place is not None for place in packing.places)

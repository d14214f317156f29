"""Packing actors onto nodes: nothing is ever overbooked, and what fits is found."""

from __future__ import annotations

import itertools
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from rlrp.runtime.packing import Ask, Node, Packing, pack

EIGHT = Node("a", {"CPU": 96, "GPU": 8})


def ask(gpus: float = 0, cpus: float = 0, pool: str = "rollout", **more: float) -> Ask:
    return Ask((pool,), {"GPU": gpus, "CPU": cpus, **more})


def nodes_of(packing: Packing) -> list[int | None]:
    return [place and place.node for place in packing.places]


def test_six_rollout_actors_and_two_learners_fill_eight_gpus() -> None:
    packing = pack([EIGHT], [ask(1, 4)] * 6 + [ask(1, 8, "learner")] * 2)
    assert packing.fits
    assert sorted(gpu for place in packing.places if place for gpu in place.gpus) == list(range(8))


def test_a_ninth_gpu_is_missing_whatever_is_tried() -> None:
    packing = pack([EIGHT], [ask(1)] * 9)
    assert (packing.fits, packing.certain) == (False, True)
    assert nodes_of(packing).count(None) == 1


def test_a_fraction_comes_from_one_gpu() -> None:
    two = Node("a", {"GPU": 2})
    # 0.6 + 0.6 + 0.6 = 1.8 of 2 GPUs, but 0.4 is left on each after two of them.
    assert not pack([two], [ask(0.6)] * 3).fits
    assert pack([two], [ask(0.5)] * 4).fits
    # Half of one GPU is taken; a whole one can still be had, two cannot.
    busy = Node("a", {"GPU": 2}, {"GPU": 0.5})
    assert pack([busy], [ask(1)]).fits and not pack([busy], [ask(2)]).fits
    assert pack([busy], [ask(1), ask(0.5)]).fits


def test_fractions_are_counted_as_ray_counts_them() -> None:
    # 0.1 * 10 is 1 in tenths of a thousandth, where in floating point 0.1 + 0.2 > 0.3.
    assert pack([Node("a", {"GPU": 1, "CPU": 0.3})], [ask(0.1, 0.1), ask(0.1, 0.2)] + [ask(0.1)] * 8).fits


def test_best_fit_that_fails_is_tried_otherwise() -> None:
    # CPUs 6 and 4 + 4 + 2: the first try puts 4 beside 6 on the node of 10 and strands the rest.
    nodes = [Node("a", {"CPU": 10}), Node("b", {"CPU": 8})]
    packing = pack(nodes, [ask(cpus=n) for n in (6, 4, 4, 4)])
    assert nodes_of(packing) == [0, 0, 1, 1] and packing.fits
    packing = pack([Node("a", {"CPU": 7}), Node("b", {"CPU": 8})], [ask(cpus=n) for n in (5, 4, 3, 2)])
    # 5 + 2 = 7 and 4 + 3 = 7; 5 + 3 = 8 and 4 + 2 = 6.
    assert packing.fits


def test_strategies() -> None:
    nodes = [Node("a", {"CPU": 4}), Node("b", {"CPU": 4}), Node("c", {"CPU": 4})]
    three = [ask(cpus=1)] * 3
    assert nodes_of(pack(nodes, three, "PACK")) == [0, 0, 0]
    assert sorted(n for n in nodes_of(pack(nodes, three, "SPREAD")) if n is not None) == [0, 1, 2]
    assert not pack(nodes, [ask(cpus=1)] * 4, "STRICT_SPREAD").fits
    assert pack(nodes, [ask(cpus=1)] * 4, "SPREAD").fits
    assert not pack(nodes, [ask(cpus=1)] * 5, "STRICT_PACK").fits
    packing = pack([Node("small", {"CPU": 1}), Node("big", {"CPU": 9})], [ask(cpus=1)] * 5, "STRICT_PACK")
    assert nodes_of(packing) == [1] * 5


def test_custom_resources_and_nothing_at_all() -> None:
    assert not pack([EIGHT], [ask(1, h100=1)]).fits
    assert pack([Node("a", {"GPU": 1, "h100": 1})], [ask(1, h100=1)]).fits
    assert pack([], []).fits and pack([EIGHT], []).fits
    assert not pack([], [ask(cpus=1)]).fits
    assert not pack([], [ask(cpus=1)], "STRICT_PACK").fits
    assert pack([Node("a", {})], [ask(0, 0, memory=0)]).fits  # asks for nothing


def test_a_large_cluster_is_packed_at_once() -> None:
    nodes = [Node(f"n{i}", {"CPU": 96, "GPU": 8}) for i in range(32)]
    asks = [ask(1, 4)] * 224 + [ask(0, 8, "reward")] * 200 + [ask(8, 8, "learner")] * 4
    assert pack(nodes, asks).fits


AMOUNTS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0])
NODES = st.lists(
    st.builds(lambda c, g: Node("n", {"CPU": c, "GPU": g}), st.integers(0, 4), st.integers(0, 3)), max_size=3
)
ASKS = st.lists(st.builds(ask, AMOUNTS, st.sampled_from([0.0, 0.5, 1.0, 2.0])), max_size=6)
STRATEGIES = st.sampled_from([None, "PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])


@given(NODES, ASKS, STRATEGIES)
def test_no_node_and_no_gpu_is_overbooked(nodes: list[Node], asks: list[Ask], strategy: str | None) -> None:
    packing = pack(nodes, asks, strategy)  # type: ignore[arg-type]
    cpus: dict[int, float] = defaultdict(float)
    gpus: dict[tuple[int, int], float] = defaultdict(float)
    for one, place in zip(asks, packing.places, strict=True):
        if place is None:
            continue
        cpus[place.node] += one.amounts["CPU"]
        left = one.amounts["GPU"]
        assert len(set(place.gpus)) == len(place.gpus) == -(-left // 1)
        for gpu in place.gpus:
            gpus[place.node, gpu] += min(1.0, left)
            left -= 1.0
    assert all(total <= nodes[node].capacity["CPU"] for node, total in cpus.items())
    assert all(total <= 1 and gpu < nodes[node].capacity["GPU"] for (node, gpu), total in gpus.items())
    taken = [place.node for place in packing.places if place]
    if strategy == "STRICT_SPREAD":
        assert len(set(taken)) == len(taken)
    if strategy == "STRICT_PACK":
        assert len(set(taken)) <= 1


@given(NODES, st.lists(st.builds(ask, st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 1.0, 2.0])), max_size=5))
def test_what_fits_is_found(nodes: list[Node], asks: list[Ask]) -> None:
    def fits(where: tuple[int, ...]) -> bool:
        return all(
            sum(a.amounts[name] for a, w in zip(asks, where, strict=True) if w == i) <= node.capacity[name]
            for i, node in enumerate(nodes)
            for name in ("CPU", "GPU")
        )

    possible = any(fits(where) for where in itertools.product(range(len(nodes)), repeat=len(asks)))
    packing = pack(nodes, asks)
    assert packing.certain and packing.fits == possible
    assert pack(nodes, asks, "SPREAD").fits == possible


@given(NODES, ASKS, st.integers(0, 5))
def test_another_node_never_hurts(nodes: list[Node], asks: list[Ask], cpus: int) -> None:
    if pack(nodes, asks).fits:
        assert pack([*nodes, Node("more", {"CPU": cpus, "GPU": 1})], asks).fits

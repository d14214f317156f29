"""What the dry run says of a placement: where everything goes, what is missing, which memory is too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlrp.config import ClusterConfig, load_config
from rlrp.errors import UserError
from rlrp.placement import Fit, check_fit, describe, find_nodes
from rlrp.plan import print_train_plan
from rlrp.runtime.nodes import declared_nodes
from rlrp.runtime.packing import Node


def cluster(**keys: object) -> ClusterConfig:
    return ClusterConfig.model_validate(keys)


ONE_BOX = [{"cpus": 96, "gpus": 8, "memory_gb": 800, "gpu_memory_gb": 80}]
SIX_AND_TWO = {
    "rollout": {"actors": 6, "gpus": 1, "cpus": 4},
    "learner": {"actors": 2, "gpus": 1, "cpus": 8},
    "reward": {"actors": 4, "cpus": 2},
}


def fit(held: dict[str, float] | None = None, there: list[Node] | None = None, **keys: object) -> Fit:
    config = cluster(**{"nodes": ONE_BOX, **SIX_AND_TWO, **keys})
    return check_fit(config, "cluster.nodes", there or declared_nodes(config.nodes), held or {})


def problem_of(*args: Any, **keys: object) -> str:
    found = fit(*args, **keys)
    assert found.problem is not None
    return found.problem


def test_where_everything_goes() -> None:
    found = fit()
    assert found.problem is None
    assert found.lines == [
        "cluster: cluster.nodes: 1 node, 96 CPUs, 8 GPUs of 80 GB, 600 GB for actors to reserve",
        "         node 1 (96 CPUs, 8 GPUs): 2 x learner, 4 x reward, 6 x rollout",
        "         fits, all at once",
    ]


def test_what_is_missing_is_said_by_pool() -> None:
    found = fit(rollout={"actors": 8, "gpus": 1, "cpus": 4})
    # Eight and two are ten GPUs of eight.
    assert found.problem == (
        "does not fit cluster.nodes: rollout: 2 of 8 find no place; each asks for 4 CPUs and 1 GPUs; "
        "2 GPUs more would do"
    )


def test_an_actor_that_is_larger_than_any_node() -> None:
    problem = problem_of(learner={"actors": 1, "gpus": 16, "cpus": 8})
    assert "learner: 1 of 1 find no place" in problem and "no node has more than 8 GPUs free" in problem


def test_enough_in_all_but_in_pieces() -> None:
    nodes = [Node(name, {"CPU": 8, "GPU": 2}) for name in "ab"]
    found = fit(there=nodes, rollout={"actors": 2, "gpus": 1}, learner={"gpus": 2}, reward={"actors": 1})
    assert found.problem is None  # two beside each other, and two together
    # 0.7 x 3 + 1 = 3.1 of 4: one 0.7 on each of three GPUs, the whole one on the fourth.
    assert fit(there=nodes, rollout={"actors": 3, "gpus": 0.7}, learner={"gpus": 1}, reward={}).problem is None
    problem = problem_of(there=nodes, rollout={"actors": 4, "gpus": 0.6}, learner={"gpus": 1}, reward={})
    assert "there is enough in all, but not on single nodes" in problem


def test_a_busy_cluster() -> None:
    busy = [Node("a", {"CPU": 96, "GPU": 8}, {"GPU": 1})]
    assert "1 GPUs more would do" in problem_of(there=busy)
    assert "beside what already runs there" in "".join(fit(there=[Node("a", {"CPU": 96, "GPU": 9}, {"GPU": 1})]).lines)


def test_a_card_that_is_too_small_for_what_shares_it() -> None:
    half = {"actors": 2, "gpus": 0.5}
    assert fit({"rollout": 30.0, "learner": 45.0}).problem is None
    assert fit({"rollout": 30.0, "learner": 90.0}).problem == (
        "does not fit cluster.nodes: memory of a GPU on node 1: learner 90.0 = about 90.0 GB, of 80 GB"
    )
    problem = problem_of(
        {"rollout": 40.0, "learner": 45.0}, placement="PACK", colocate=True, rollout=half, learner=half
    )
    assert "rollout 40.0 + learner 45.0 = about 85.0 GB, of 80 GB" in problem


def test_actors_on_cpus_share_the_machines_memory() -> None:
    small: dict[str, Any] = {
        "nodes": [{"cpus": 8, "memory_gb": 10}],
        "rollout": {"actors": 4},
        "learner": {},
        "reward": {},
    }
    assert fit({"rollout": 1.0, "learner": 3.0}, **small).problem is None
    assert "rollout 8.0 + learner 3.0 = about 11.0 GB, of 10 GB" in problem_of(
        {"rollout": 2.0, "learner": 3.0}, **small
    )


def test_room_to_grow() -> None:
    lines = fit(rollout={"actors": 3, "gpus": 1, "cpus": 4, "max_actors": 12}).lines
    # Eight GPUs less three and two.
    assert "         rollout may grow by 9 actors; these nodes have room for 3" in lines


def test_alike_nodes_share_a_line() -> None:
    nodes = [Node(f"n{i}", {"CPU": 8, "GPU": 1}) for i in range(6)]
    found = fit(there=nodes, rollout={"actors": 6, "gpus": 1}, learner={}, reward={"actors": 1})
    assert any("n2 … n5" in line or "alike" in line for line in found.lines)
    assert describe(nodes) == "6 nodes, 48 CPUs, 6 GPUs"


def test_the_nodes_checked_are_the_named_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert find_nodes(cluster()) is None
    file = tmp_path / "n.yaml"
    file.write_text("nodes: [{cpus: 1}]", encoding="utf-8")
    found = find_nodes(cluster(nodes=ONE_BOX), file)
    assert found and found[0] == str(file) and len(found[1]) == 1
    found = find_nodes(cluster(nodes=ONE_BOX))
    assert found and found[0] == "cluster.nodes"


def test_the_dry_run_ends_with_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "x.yaml"
    text = "sft: null\nmodel: Qwen/Qwen3-8B\nrl: {dtype: bfloat16}\ncluster:\n  learner: {gpus: 1}\n"
    path.write_text(text + "  nodes: [{cpus: 8, gpus: 1, gpu_memory_gb: 80, memory_gb: 64}]\n", encoding="utf-8")
    print_train_plan(load_config(path))
    said = capsys.readouterr().out
    assert "8,190 M parameters in bfloat16" in said and "fits, all at once" in said
    with pytest.raises(UserError, match=r"memory of a GPU on node 1: learner .* of 12 GB"):
        print_train_plan(load_config(path, ["cluster.nodes=[{cpus: 8, gpus: 1, gpu_memory_gb: 12, memory_gb: 64}]"]))

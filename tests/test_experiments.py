"""Every shipped experiment loads, and those for real hardware fit the cluster that they declare."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward.people.settings import read_ratings_config
from rlrp.config import load_config
from rlrp.estimates import memory_estimates
from rlrp.plan import print_train_plan

FOLDER = Path(__file__).parents[1] / "experiments"
HARDWARE = ["grpo_8b_8gpu_vllm.yaml", "lora_one_gpu.yaml", "ppo_zero3.yaml"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_it_loads(path: Path) -> None:
    assert read_ratings_config(str(path), []) or load_config(path).name


@pytest.mark.parametrize("name", HARDWARE)
def test_it_fits_what_it_declares(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    print_train_plan(load_config(FOLDER / name))
    said = capsys.readouterr().out
    assert said.endswith("fits, all at once\n")
    assert "M parameters in bfloat16" in said and "learner  " in said and "a cache for " in said


@pytest.mark.parametrize("name", HARDWARE)
def test_a_tenth_of_the_card_is_left(name: str) -> None:
    config = load_config(FOLDER / name)
    (node,) = config.cluster.nodes
    assert node.gpu_memory_gb is not None
    held = {pool: estimate.total for pool, estimate in memory_estimates(config, node.gpu_memory_gb).items()}
    on_a_card = held["rollout"] + held["learner"] if config.cluster.colocate else max(held["rollout"], held["learner"])
    assert on_a_card <= 0.9 * node.gpu_memory_gb

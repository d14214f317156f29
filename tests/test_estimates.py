"""Sizes and memory by hand, and against what the models publish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlrp.config import Config
from rlrp.estimates import (
    Training,
    activation_bytes,
    checkpoint_gb,
    host_gb,
    learner_parts,
    memory_estimates,
    rollout_parts,
    sync_gb,
    vllm_parts,
)
from rlrp.shapes import HUB, Shape, model_shape

# One layer: attention 4 x 8 x 8 = 256, MLP 3 x 8 x 16 = 384; embedding 10 x 8, twice.
SMALL = Shape(layers=1, hidden=8, intermediate=16, vocabulary=10, heads=2, kv_heads=2, head=4, tied=False)
QWEN = HUB["Qwen/Qwen3-8B"]


def test_a_small_shape_by_hand() -> None:
    assert (SMALL.linear, SMALL.parameters, SMALL.kv_width) == (640, 800, 16)
    # Rank 2: q and o 2 x (8 + 8), k and v the same, gate, up and down 3 x (8 + 16), times 2.
    assert SMALL.adapter(2) == 2 * (32 + 32 + 72)


@pytest.mark.parametrize(
    ("name", "billions"),
    [  # as the model cards say, less norms and biases
        ("Qwen/Qwen3-0.6B", 0.596),
        ("Qwen/Qwen3-1.7B", 1.72),
        ("Qwen/Qwen3-4B", 4.02),
        ("Qwen/Qwen3-8B", 8.19),
        ("Qwen/Qwen3-14B-Base", 14.8),
        ("Qwen/Qwen3-32B", 32.8),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.494),
        ("Qwen/Qwen2.5-1.5B", 1.54),
        ("Qwen/Qwen2.5-3B", 3.09),
        ("Qwen/Qwen2.5-7B-Instruct", 7.62),
        ("Qwen/Qwen2.5-14B", 14.8),
        ("Qwen/Qwen2.5-32B", 32.8),
        ("Qwen/Qwen2.5-72B-Instruct", 72.7),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.03),
        ("meta-llama/Llama-3.1-70B", 70.6),
        ("meta-llama/Llama-3.2-1B", 1.24),
        ("meta-llama/Llama-3.2-3B-Instruct", 3.21),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7.25),
    ],
)
def test_known_shapes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    assert HUB[name].parameters / 1e9 == pytest.approx(billions, rel=0.006)


def test_a_shape_is_read_from_the_directory_first(tmp_path: Path) -> None:
    keys = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 16, "vocab_size": 10}
    config = {**keys, "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert model_shape(str(tmp_path)) == SMALL
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}), encoding="utf-8")
    assert model_shape(str(tmp_path)) == SMALL
    (tmp_path / "config.json").write_text('{"model_type": "rwkv"}', encoding="utf-8")
    assert model_shape(str(tmp_path)) is None


def test_a_hub_model_that_is_nowhere_has_no_shape() -> None:
    assert model_shape("Qwen/Qwen3-8B") == QWEN
    assert model_shape("someone/unheard-of") is None
    assert model_shape("./not/there/yet") is None


def test_full_weights_in_bfloat16_take_sixteen_bytes_a_parameter() -> None:
    parts = learner_parts(QWEN, Training("bfloat16", None, anchor=False))
    # ZeRO's paper, section 3.1: 2 + 2 + 12 = 16 bytes.
    held = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert held * 1e9 == pytest.approx(16 * QWEN.parameters)


@pytest.mark.parametrize(("stage", "per_parameter"), [(1, 2 + 2 + 12 / 8), (2, 2 + 14 / 8), (3, 16 / 8)])
def test_zero_shards_what_the_paper_says(stage: int, per_parameter: float) -> None:
    # arXiv 1910.02054, figure 1, with eight workers.
    parts = learner_parts(QWEN, Training("bfloat16", None, workers=8, zero=stage, anchor=False))
    held = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert held * 1e9 == pytest.approx(per_parameter * QWEN.parameters)


def test_the_anchor_of_full_weights_is_a_second_copy_and_of_an_adapter_nothing() -> None:
    full = learner_parts(QWEN, Training("bfloat16", None, workers=4, zero=3))
    assert full["anchor"] * 1e9 == pytest.approx(2 * QWEN.parameters / 4)
    assert "anchor" not in learner_parts(QWEN, Training("bfloat16", 16))


def test_offloading_moves_bytes_to_the_host() -> None:
    plain = Training("bfloat16", None, workers=8, zero=3, anchor=False)
    moved = Training("bfloat16", None, workers=8, zero=3, anchor=False, offload_optimizer=True)
    difference = sum(learner_parts(QWEN, plain).values()) - sum(learner_parts(QWEN, moved).values())
    assert host_gb(QWEN, moved) == pytest.approx(difference) and host_gb(QWEN, plain) == 0
    assert host_gb(QWEN, moved) * 1e9 == pytest.approx(12 * QWEN.parameters / 8)


def test_checkpointing_keeps_one_vector_a_layer_and_one_layer_whole() -> None:
    # 3 tokens x (10 x 8 + 4 x 16) x 4 bytes = 1728 a layer; checkpointed 1728 + 3 x 8 x 4.
    assert activation_bytes(SMALL, 3, 4, False) == 1728
    assert activation_bytes(SMALL, 3, 4, True) == 1728 + 96


def test_a_critic_on_the_policys_base_costs_its_adapter_alone() -> None:
    shared = learner_parts(QWEN, Training("bfloat16", 16, critic_rank=16))["critic"]
    assert shared * 1e9 == pytest.approx(12 * QWEN.adapter(16))
    own = learner_parts(QWEN, Training("bfloat16", 16, critic_rank=16, critic=HUB["Qwen/Qwen3-0.6B"]))["critic"]
    assert own * 1e9 > 2 * HUB["Qwen/Qwen3-0.6B"].parameters
    # When all of the policy's weights move, they are no base for anybody.
    moving = learner_parts(QWEN, Training("bfloat16", None, critic_rank=16))["critic"]
    assert moving * 1e9 > 2 * QWEN.parameters


def test_what_is_sent_and_what_is_kept() -> None:
    full, lora = Training("bfloat16", None), Training("bfloat16", 16)
    assert sync_gb(QWEN, full) * 1e9 == pytest.approx(2 * QWEN.parameters)
    assert sync_gb(QWEN, lora) * 1e9 == pytest.approx(4 * QWEN.adapter(16))
    # Weights in two bytes, the master copy and two moments in four each.
    assert checkpoint_gb(QWEN, full) * 1e9 == pytest.approx(14 * QWEN.parameters)
    assert checkpoint_gb(QWEN, lora) * 1e9 == pytest.approx(12 * QWEN.adapter(16))


def test_rollouts() -> None:
    parts = rollout_parts(QWEN, "bfloat16", 300)
    assert parts["weights"] * 1e9 == 2 * QWEN.parameters
    # 36 layers x 8 heads x 128 x 2 = 73,728 numbers, 147,456 bytes a token.
    assert parts["replies' cache"] * 1e9 == pytest.approx(147_456 * 300 * 64)
    held, tokens = vllm_parts(QWEN, "bfloat16", 0.9, 80)
    assert sum(held.values()) == pytest.approx(72)
    assert tokens == int((72 - held["weights"] - 1.5) * 1e9 / 147_456)
    assert vllm_parts(QWEN, "bfloat16", 0.9, 16)[1] == 0
    # Over two GPUs the weights are halved on each, and the cache is of both.
    halves, more = vllm_parts(QWEN, "bfloat16", 0.9, 80, gpus=2)
    assert halves["weights"] * 2 == pytest.approx(held["weights"]) and more > 2 * tokens


def config(**rl: object) -> Config:
    base = {"dtype": "bfloat16", "max_new_tokens": 300}
    return Config.model_validate({"model": "Qwen/Qwen3-8B", "sft": None, "rl": base | rl, "cluster": {"rollout": GPU}})


GPU = {"gpus": 1}


def test_a_configuration_with_vllm_takes_its_share_of_the_card() -> None:
    found = memory_estimates(config(engine="vllm", vllm={"gpu_memory_utilization": 0.5}), 80)["rollout"]
    assert found.total == pytest.approx(40)
    # 40 GB less 16.4 of weights and 1.5 of workspace, at 147,456 bytes a token.
    assert found.note == f"a cache for {int((40 - 2 * QWEN.parameters / 1e9 - 1.5) * 1e9 / 147_456):,} tokens"
    assert memory_estimates(config(engine="vllm", vllm={"gpu_memory_utilization": 0.2}), 80)["rollout"].note == (
        "no room for a cache"
    )
    assert memory_estimates(config(engine="vllm"))["rollout"].note == "plus cache"  # the card is not known


def test_only_ppo_has_a_critic() -> None:
    assert "critic" not in memory_estimates(config())["learner"].parts
    own = {"algorithm": "ppo", "critic": {"model": "Qwen/Qwen3-4B"}}
    held = memory_estimates(config(**own))["learner"].parts["critic"]
    assert held * 1e9 > 2 * HUB["Qwen/Qwen3-4B"].parameters

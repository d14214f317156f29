"""Merged adapters against PEFT's own forward, and checksums that notice everything."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from rlrp.errors import UserError
from rlrp.files import read_json
from rlrp.lm.adapters import AdapterState, LoraSettings, MergedAdapter, adapter_state, add_lora, checksum

LORA = LoraSettings(r=4, alpha=12)
IDS = torch.tensor([[5, 99, 200, 7, 31]])


def randomise(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Gemma3"])
def test_a_merged_model_computes_what_peft_computes(architecture: str) -> None:
    base = tiny_model(architecture)
    peft = add_lora(copy.deepcopy(base), LORA, seed=1)
    merged = MergedAdapter(copy.deepcopy(base), LORA.scaling)
    before = logits(base)
    torch.testing.assert_close(logits(peft), before, atol=0, rtol=0)  # a fresh adapter changes nothing
    randomise(peft, seed=2)
    state = adapter_state(peft)
    assert merged.load(state) == checksum(state)
    torch.testing.assert_close(logits(merged.model), logits(peft), atol=1e-4, rtol=0)
    assert (logits(merged.model) - before).abs().max() > 0.1


def test_fifty_syncs_leave_the_same_bits_as_one() -> None:
    base = tiny_model()
    peft = add_lora(copy.deepcopy(base), LORA, seed=0)
    often, once = (MergedAdapter(copy.deepcopy(base), LORA.scaling) for _ in range(2))
    for seed in range(50):
        randomise(peft, seed)
        often.load(adapter_state(peft))
    once.load(adapter_state(peft))
    for (name, weight), (_, expected) in zip(
        often.model.named_parameters(), once.model.named_parameters(), strict=True
    ):
        assert torch.equal(weight, expected), name
    often.unload()
    for (name, weight), (_, expected) in zip(often.model.named_parameters(), base.named_parameters(), strict=True):
        assert torch.equal(weight, expected), name
    assert often.checksum() != once.checksum()


def test_what_is_held_is_a_copy() -> None:
    peft = add_lora(tiny_model(), LORA, seed=0)
    merged = MergedAdapter(tiny_model(), LORA.scaling)
    state = adapter_state(peft)
    before = merged.load(state)
    next(iter(state.values())).add_(1)
    randomise(peft, seed=1)
    assert merged.checksum() == before


STATE: AdapterState = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}


@settings(max_examples=100)
@given(st.sampled_from(sorted(STATE)), st.data())
def test_a_single_bit_changes_the_checksum(name: str, data: st.DataObject) -> None:
    changed = {key: tensor.clone() for key, tensor in STATE.items()}
    raw = changed[name].view(torch.uint8).view(-1)
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    assert checksum(changed) != checksum(STATE)


def test_names_shapes_and_types_change_the_checksum_and_order_does_not() -> None:
    same = {"b": STATE["b"].clone(), "a": STATE["a"].t().contiguous().t()}  # other strides, equal values
    assert checksum(same) == checksum(STATE)
    others: list[AdapterState] = [
        {"a": STATE["a"], "c": STATE["b"]},
        {"a": STATE["a"].view(3, 2), "b": STATE["b"]},
        {"a": STATE["a"], "b": STATE["b"].view(torch.float16)},
        {"a": STATE["a"]},
        {},
    ]
    assert len({checksum(state) for state in [STATE, *others]}) == 6


def test_a_seed_decides_the_fresh_adapter() -> None:
    first, again, other = (checksum(adapter_state(add_lora(tiny_model(), LORA, seed=seed))) for seed in (1, 1, 2))
    assert first == again != other


def test_what_is_written_of_an_adapter_is_the_same_in_every_process(tmp_path: Path) -> None:
    add_lora(tiny_model(), LORA, seed=0).save_pretrained(tmp_path)
    targets = read_json(tmp_path / "adapter_config.json")["target_modules"]
    assert len(targets) > 6 and targets == sorted(targets)


@pytest.mark.parametrize("targets", ["nonesuch", ("nonesuch",)])
def test_unknown_targets_are_the_users_error(targets: Any) -> None:
    with pytest.raises(UserError, match="nonesuch") as caught:
        add_lora(tiny_model(), LoraSettings(targets=targets), seed=0)
    assert caught.value.place == "lora.targets"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", [("lm_head", "q_proj"), ("embed_tokens",)])
def test_what_cannot_be_merged_is_refused_not_dropped(targets: Any) -> None:
    state = adapter_state(add_lora(tiny_model("Qwen2"), LoraSettings(targets=targets), seed=0))
    with pytest.raises(UserError, match="leave embeddings and the vocabulary projection out"):
        MergedAdapter(tiny_model("Qwen2"), 1.0).load(state)


def test_a_layer_that_is_not_linear_is_refused() -> None:
    """GPT-2's Conv1D keeps its weight transposed: a square one would be merged wrongly without a sign."""
    from transformers.pytorch_utils import Conv1D

    model = torch.nn.Module()
    model.proj = Conv1D(4, 4)
    state = {f"base_model.model.proj.lora_{x}.weight": torch.ones(4, 4) for x in "AB"}
    with pytest.raises(UserError, match="Conv1D"):
        MergedAdapter(model, 1.0).load(state)

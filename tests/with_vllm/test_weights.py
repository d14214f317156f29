"""What vLLM computes with after a sync, and that a sync which did not reach it is not taken for one that did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rlrp.errors import UserError
from rlrp.lm.adapters import checksum, merge
from rlrp.lm.checkpoint import open_checkpoint
from rlrp.lm.engines.vllm import VllmEngine
from rlrp.lm.load import load_model
from rlrp.lm.sampling import SampleRequest, SamplingSettings

from .made import LORA, TEMPERATURE, assert_agree, drawn_state

SETTINGS = SamplingSettings(max_new_tokens=24, temperature=TEMPERATURE)


def test_different_weights_have_different_checksums_and_say_different_things(
    engine: VllmEngine, policy: Any, requests: list[SampleRequest]
) -> None:
    """The same prompts under each version: what the prefix cache kept of the version before would show."""
    sums, said = set(), set()
    for seed, std in ((1, 0.0), (2, 0.02), (3, 0.03), (1, 0.0)):
        state = drawn_state(policy, seed, std)
        assert engine.load(state) == checksum(state)
        groups = engine.sample(requests, SETTINGS)
        assert_agree(policy, requests, groups)
        sums.add(checksum(state))
        said.add(tuple(c.ids for group in groups for c in group))
    assert len(sums) == len(said) == 3  # the last version is the first again


def test_the_layers_hold_the_merged_weights_bit_for_bit(engine: VllmEngine, policy: Any) -> None:
    """Read independently of the engine's own check: q, k and v of a layer, as the product with the identity."""
    state = drawn_state(policy, 4)
    engine.load(state)
    layer = engine.llm.collective_rpc("get_model")[0].model.layers[7].self_attn.qkv_proj
    held = layer.quant_method.apply(layer, torch.eye(layer.input_size_per_partition), None).T
    with open_checkpoint(engine.folder) as base:
        names = [f"model.layers.7.self_attn.{part}_proj" for part in "qkv"]
        expected = [
            merge(base[f"{n}.weight"], *(state[f"base_model.model.{n}.lora_{m}.weight"] for m in "AB"), LORA.scaling)
            for n in names
        ]
    assert torch.equal(held, torch.cat(expected))


def test_an_adapter_on_some_matrices_leaves_their_neighbours_alone(
    engine: VllmEngine, policy: Any, requests: list[SampleRequest]
) -> None:
    """q and v alone, as in ``experiments/smoke.yaml``: k lies between them in vLLM's matrix. All others, which were
    changed before, are as in the model's files again."""
    engine.load(drawn_state(policy, 5))
    state = drawn_state(policy, 6, only=("q_proj", "v_proj"))
    assert len(state) == 30 * 2 * 2  # layers, modules, matrices
    assert engine.load(state) == checksum(state)
    assert_agree(policy, requests, engine.sample(requests, SETTINGS))


def test_whole_weights_reach_the_tied_vocabulary_projection_too(
    engine: VllmEngine, smollm2: str, requests: list[SampleRequest]
) -> None:
    model = load_model(smollm2).model
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.02 * torch.randn_like(parameter))
    state = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert engine.load(state) == checksum(state)
    assert_agree(model, requests, engine.sample(requests, SETTINGS))


Break = Callable[[Any, pytest.MonkeyPatch], None]


def lose_all(worker: Any, patch: pytest.MonkeyPatch) -> None:
    """What was sent never reaches the model."""
    patch.setattr(worker, "reload_weights", lambda **_: None)


def lose_k(worker: Any, patch: pytest.MonkeyPatch) -> None:
    """One of three stacked matrices of one layer stays as in the files."""
    load = type(worker).reload_weights

    def lossy(weights_iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        with open_checkpoint(worker.model_config.model) as base:
            lost = "model.layers.3.self_attn.k_proj.weight"
            load(worker, weights_iterator=((n, base[n] if n == lost else t) for n, t in weights_iterator))

    patch.setattr(worker, "reload_weights", lossy)


def one_bit(worker: Any, patch: pytest.MonkeyPatch) -> None:
    """The last bit of one weight is another."""
    load = type(worker).reload_weights

    def flipped(weights_iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights_iterator:
                if name == "model.layers.29.mlp.down_proj.weight":
                    tensor = tensor.clone()
                    tensor.view(torch.int32)[5, 7] ^= 1
                yield name, tensor

        load(worker, weights_iterator=tensors())

    patch.setattr(worker, "reload_weights", flipped)


def keep_packed(worker: Any, patch: pytest.MonkeyPatch) -> None:
    """A layer goes on computing with the weights that were packed before, as a compiled graph would."""
    layer = worker.get_model().model.layers[11].mlp.gate_up_proj
    packed, load = layer.cpu_linear, type(worker).reload_weights

    def stale(weights_iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        load(worker, weights_iterator=weights_iterator)
        layer.cpu_linear = packed

    patch.setattr(worker, "reload_weights", stale)


@pytest.mark.parametrize("broken", [lose_all, lose_k, one_bit, keep_packed])
def test_a_sync_that_did_not_reach_the_layers_is_detected(
    engine: VllmEngine, policy: Any, broken: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load(drawn_state(policy, 7))
    worker = engine.llm.llm_engine.model_executor.driver_worker.worker
    state = drawn_state(policy, 8)
    with monkeypatch.context() as patch:
        broken(worker, patch)
        assert engine.load(state) != checksum(state)
    assert engine.load(state) == checksum(state)


def test_a_matrix_that_the_model_has_not_is_refused(engine: VllmEngine, policy: Any) -> None:
    state = drawn_state(policy, 9, only=("layers.0.self_attn.q_proj",))
    renamed = {name.replace("q_proj", "c_proj"): tensor for name, tensor in state.items()}
    with pytest.raises(UserError, match=r"have no model\.layers\.0\.self_attn\.c_proj\.weight"):
        engine.load(renamed)

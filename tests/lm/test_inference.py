"""The written-out decoder and packed layers against the model's own modules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, tiny_model
from torch import nn

from rlrp.lm import inference as inference_module
from rlrp.lm.adapters import LoraSettings, add_lora
from rlrp.lm.inference import inference, own_forward
from rlrp.lm.lean import LeanDecoder, lean_decoder
from rlrp.lm.packed import Packed, packed_linears
from rlrp.lm.shared_prefix import pack, packed_inputs

MODELS = {name: tiny_model(name) for name in ARCHITECTURES}
SUFFIXES = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=7), max_size=4)
GROUPS = st.lists(st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=20), SUFFIXES), min_size=1, max_size=3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(groups=GROUPS)
def test_the_written_out_decoder_equals_the_models_own(
    architecture: str, groups: list[tuple[list[int], list[list[int]]]]
) -> None:
    model = MODELS[architecture]
    lean = lean_decoder(model)
    assert lean is not None
    prompts, replies = [prompt for prompt, _ in groups], [reply for _, reply in groups]
    inputs = packed_inputs(prompts, replies, torch.device("cpu"))
    with torch.no_grad():
        own = own_forward(model)(*inputs, pack(prompts, replies))
        ours = lean(*inputs, pack(prompts, replies))
    assert torch.allclose(own, ours, atol=1e-5)


def test_the_packed_copy_is_of_the_weights_as_they_are_then() -> None:
    model = tiny_model("Llama")
    ids, positions = packed_inputs([[1, 2, 3]], [[]], torch.device("cpu"))
    with torch.no_grad():
        with inference(model) as before:
            first = before.hidden(ids, positions, pack([[1, 2, 3]], [[]]))
        model.get_decoder().layers[0].mlp.down_proj.weight.mul_(3)
        with inference(model) as after:
            second = after.hidden(ids, positions, pack([[1, 2, 3]], [[]]))
        own = own_forward(model)(ids, positions, pack([[1, 2, 3]], [[]]))
    assert not torch.allclose(first, second, atol=1e-3) and torch.allclose(second, own, atol=1e-5)


def test_what_is_not_written_here_is_left_to_the_model() -> None:
    assert lean_decoder(tiny_model("Llama").double()) is None
    assert lean_decoder(add_lora(tiny_model("Llama"), LoraSettings(), seed=0)) is None
    other = tiny_model("Llama")
    other.config.model_type = "something_else"
    assert lean_decoder(other) is None


def test_a_model_that_is_built_otherwise_runs_through_its_own_modules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("Llama")
    model.get_decoder().layers[0].self_attn.scaling *= 2
    monkeypatch.setattr(LeanDecoder, "__call__", lambda self, ids, *_: torch.ones(ids.shape[1], 32))
    for _ in range(2):
        with torch.no_grad(), inference(model) as ready:
            assert not isinstance(ready.hidden, LeanDecoder)
    said = capsys.readouterr().err
    assert said.count("not built like its family") == 1
    assert inference_module._agrees[model] is False


@pytest.mark.parametrize("bias", [(True, True), (False, False), (True, False)])
@pytest.mark.parametrize("rows", [1, 3, 300])
def test_packed_layers_multiply_as_linear_ones_do(bias: tuple[bool, bool], rows: int) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(8, 5, bias=bias[0]), nn.Linear(8, 3, bias=bias[1])
    x, other = torch.randn(rows, 8), torch.randn(rows, 5)
    with torch.no_grad():
        assert torch.allclose(Packed(first, second)(x), torch.cat([first(x), second(x)], 1), atol=1e-6)
        assert torch.allclose(Packed(first).combined(x, other, "add"), first(x) + other, atol=1e-6)
        assert torch.allclose(Packed(first).combined(x, other, "mul"), first(x) * other, atol=1e-6)
        assert torch.allclose(Packed(first).activated(x, "swish"), nn.functional.silu(first(x)), atol=1e-5)


def test_packed_layers_are_there_inside_alone() -> None:
    model = tiny_model("Llama")
    layer, x = model.get_decoder().layers[0].mlp.gate_proj, torch.randn(2, 3, 32)
    with torch.no_grad():
        plain = layer(x)
        with packed_linears(model):
            inside = layer(x)
            assert "forward" in vars(layer)
    assert torch.allclose(plain, inside, atol=1e-6) and inside.shape == plain.shape
    assert "forward" not in vars(layer)

"""Frozen linear layers on oneDNN's products against autograd's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, tiny_model
from torch import nn

from rlrp.lm.adapters import LoraSettings, add_lora
from rlrp.lm.frozen import product, speed_up_frozen_linears
from rlrp.lm.scoring import TokenGroup, token_logprobs
from rlrp.lm.self_check import use_shared_prefix

GROUPS = [TokenGroup((1, 2, 3, 4, 5), ((6, 7, 8), (9,), ())), TokenGroup((3, 1), ((4, 1, 5), (9, 2)))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_of_adapter_and_inputs_are_autograds(architecture: str) -> None:
    base = tiny_model(architecture)
    use_shared_prefix(base)
    plain: Any = add_lora(base, LoraSettings(r=4), seed=0)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    fast = copy.deepcopy(plain)
    layers = sum(type(m) is nn.Linear for m in fast.base_model.model.get_decoder().modules())
    assert speed_up_frozen_linears(fast) >= layers / 3 > 0  # a base layer, and its A and B, which train
    for model in (plain, fast):
        token_logprobs(model, GROUPS).logp.sum().backward()
    found = 0
    for (name, ours), expected in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(ours.grad, expected.grad, atol=1e-4, rtol=1e-4, msg=name)
            found += 1
    assert found


@given(rows=st.integers(1, 9), wide=st.integers(1, 40), long=st.integers(1, 40), turned=st.booleans())
def test_the_product_is_the_plain_one(rows: int, wide: int, long: int, turned: bool) -> None:
    x, weight = torch.randn(rows, wide), torch.randn(long, wide)
    if turned:
        weight = weight.t().contiguous().t()
    torch.testing.assert_close(product(x, weight), x @ weight.t(), atol=1e-4, rtol=1e-4)


def test_what_trains_and_what_is_not_float32_stays_as_it_is() -> None:
    assert speed_up_frozen_linears(tiny_model("Llama")) == 0  # every layer trains
    double = tiny_model("Llama").double().requires_grad_(False)
    assert speed_up_frozen_linears(double) == 0
    x, weight = torch.randn(2, 3).double(), torch.randn(4, 3).double()
    torch.testing.assert_close(product(x, weight), x @ weight.t())


def test_an_empty_batch_passes() -> None:
    model = tiny_model("Llama").requires_grad_(False)
    speed_up_frozen_linears(model)
    layer = model.get_decoder().layers[0].mlp.down_proj
    assert layer(torch.zeros(0, layer.in_features)).shape == (0, layer.out_features)

"""Frozen linear layers of a model in training, on a CPU: oneDNN's products where autograd would take MKL's.

On processors where MKL keeps to AVX2 these are a seventh faster, forward and backward. The weights are read where they
lie (``rlrp.lm.packed`` copies them, which pays for few rows): nothing to keep in step with, no memory.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rlrp.lm.packed import can_pack, is_packable, on_rows


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x Wᵀ + b``, x [N, I] and W [O, I], by oneDNN where it can be; no gradient is recorded then."""
    if not is_packable(weight):
        return nn.functional.linear(x, weight, bias)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _FrozenLinear(torch.autograd.Function):
    """``x Wᵀ + b``; its gradient in x is ``g W``, and nothing but the weight is needed for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return product(grads[0].contiguous(), weight.t()), None, None


_frozen_linear: Callable[..., Tensor] = _FrozenLinear.apply


def speed_up_frozen_linears(model: Any) -> int:
    """Put the model's frozen plain linear layers on oneDNN's product, for good; how many they were.

    None where float32 on a CPU is not what the model runs in. The layers' parameters must stay frozen.
    """
    if not can_pack(model):
        return 0
    layers = [m for m in model.modules() if type(m) is nn.Linear and not any(p.requires_grad for p in m.parameters())]
    for layer in layers:
        vars(layer)["forward"] = partial(on_rows, partial(_product_of, layer))
    return len(layers)


def _product_of(layer: nn.Linear, x: Tensor) -> Tensor:
    return _frozen_linear(x, layer.weight, layer.bias)

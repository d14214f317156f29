"""Linear layers on a CPU with their weights laid out for oneDNN once, not at every product.

With few rows, as in decoding, a product spends much of its time on bringing the weight into the order that the kernel
reads: packed beforehand it is up to twice as fast, and oneDNN takes AVX-512 on machines where MKL does not.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 256
"""The number of rows that the layout is chosen for; measured: within 4 % of the best for 1 to 2,720 rows."""


def can_pack(model: Any) -> bool:
    """Whether the model's products can be oneDNN's: float32 on a CPU, and a torch that has the operators.

    They are those of torch's own compiler (``torch/_inductor/mkldnn_ir.py``), not of its public interface: a torch
    without them takes the plain product.
    """
    return is_packable(model.get_input_embeddings().weight)


def is_packable(weight: Tensor) -> bool:
    """``can_pack`` for one weight."""
    return bool(
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class Packed:
    """``x Wᵀ + b`` for fixed weights, x [N, I]; several layers with the same input become one product.

    A copy: whoever changes the weights must pack them again.
    """

    def __init__(self, *layers: nn.Linear):
        weights = [layer.weight.detach() for layer in layers]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self.bias = _joined_bias(layers)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out

    def activated(self, x: Tensor, name: str, form: str = "") -> Tensor:
        """The activation ``name`` (oneDNN's: swish, gelu, ...) of the product."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], form)
        return out

    def combined(self, x: Tensor, other: Tensor, how: str) -> Tensor:
        """The product added to (``add``) or multiplied with (``mul``) another tensor [N, O]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, how)
        return out


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
    return torch.cat([part.detach() for part in parts])


@contextmanager
def packed_linears(model: Any) -> Iterator[None]:
    """Within, the model's plain linear layers run on packed copies of their weights; nothing may train or move them."""
    layers = [m for m in model.modules() if type(m) is nn.Linear] if can_pack(model) else []
    for layer in layers:
        # On the instance, for as long as rows are drawn: the model's classes, and whoever trains it, never see it.
        vars(layer)["forward"] = partial(on_rows, Packed(layer))
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def on_rows(product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A product of rows [N, I] for x [..., I]."""
    out: Tensor = product(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])
    return out

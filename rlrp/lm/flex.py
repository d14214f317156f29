"""The packed row on a GPU: FlexAttention with a block mask, so that blocks that nobody may look at cost nothing.

Written on PyTorch's documented interface. Its forward is tested on a CPU, where FlexAttention computes its reference
without a kernel; its compiled kernels and its backward, which exist on GPUs alone, were not run by this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

if TYPE_CHECKING:
    from rlrp.lm.shared_prefix import GroupSpan


def flex_attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """Attention output [1, L, H, D] for packed queries [1, H, L, D] and keys and values [1, K, L, D]."""
    out = _kernel(q.device.type)(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    result: Tensor = out.transpose(1, 2)
    return result


def packed_block_mask(groups: Sequence[GroupSpan], window: int | None, device: torch.device) -> BlockMask:
    """Who may look at whom in a packed row: at the own group's prefix and the own suffix, never ahead, and within the
    sliding window if there is one."""
    group_L, suffix_L, position_L = _places(groups, device)

    def may_look(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        own = (group_L[i] == group_L[j]) & ((suffix_L[j] == 0) | (suffix_L[i] == suffix_L[j]))
        behind = position_L[i] - position_L[j]
        near = behind >= 0
        return own & near if window is None else own & near & (behind < window)

    length = len(group_L)
    return create_block_mask(may_look, None, None, length, length, device=str(device))


def _places(groups: Sequence[GroupSpan], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of every token: its group, its suffix (0 is the prefix) and its position."""
    group: list[int] = []
    suffix: list[int] = []
    position: list[int] = []
    for g, span in enumerate(groups):
        for s, (start, length) in enumerate([(0, span.prefix), *((span.prefix, n) for n in span.suffixes)]):
            group += [g] * length
            suffix += [s] * length
            position += range(start, start + length)
    group_L, suffix_L, position_L = (torch.tensor(values, device=device) for values in (group, suffix, position))
    return group_L, suffix_L, position_L


@cache
def _kernel(device: str) -> Any:
    # Packed rows differ in length from step to step; without dynamic shapes each would be compiled anew.
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention

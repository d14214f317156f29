"""Suffixes over their shared prefix on a CPU, by torch's flash kernel: no score ever lies in memory.

Two calls, one over the prefix and one over each suffix itself, are merged by their log-sum-exps. Backward runs the
kernel's own backward for both parts with the merged output and log-sum-exp, as ring attention does (arXiv 2310.01889):
the softmax over both parts is all that the kernel needs to know of the other part.

Shapes: H query heads, K key heads, D head size, P prefix tokens, S suffix tokens, n suffixes, R longest suffix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_flash: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_flash_backward: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def is_available(q: Tensor) -> bool:
    """Whether the kernel, which ``scaled_dot_product_attention`` calls on a CPU, is there and takes these numbers."""
    floats = q.dtype in (torch.float32, torch.float64, torch.bfloat16)
    return _flash is not None and _flash_backward is not None and q.device.type == "cpu" and floats


class _SuffixAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kp: Tensor, vp: Tensor, ks: Tensor, vs: Tensor, pads: Pads, scale: float
    ) -> Tensor:
        repeat = q.shape[0] // kp.shape[0]
        to_prefix, norm = _flash(q[None], _repeat(kp, repeat), _repeat(vp, repeat), 0.0, False, scale=scale)
        own = [pads.pad(x) for x in (q, ks.repeat_interleave(repeat, 0), vs.repeat_interleave(repeat, 0))]
        to_own, own_norm = _flash(*own, 0.0, True, scale=scale)
        own_norm = pads.unpad(own_norm[..., None])[..., 0]
        total = torch.logaddexp(norm[0], own_norm)
        share = (norm[0] - total).exp_()[..., None]
        out = torch.lerp(pads.unpad(to_own), to_prefix[0], share.to(q.dtype))
        ctx.save_for_backward(q, kp, vp, ks, vs, out, total)
        ctx.pads, ctx.scale = pads, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, kp, vp, ks, vs, out, total = ctx.saved_tensors
        pads, repeat = ctx.pads, q.shape[0] // kp.shape[0]
        over_prefix = (grads[0][None], q[None], _repeat(kp, repeat), _repeat(vp, repeat), out[None], total[None])
        dq, dkp, dvp = (d[0] for d in _flash_backward(*over_prefix, 0.0, False, scale=ctx.scale))
        wide = (grads[0], q, ks.repeat_interleave(repeat, 0), vs.repeat_interleave(repeat, 0), out)
        own = (*(pads.pad(x) for x in wide), pads.pad(total[..., None])[..., 0])
        own_dq, dks, dvs = (pads.unpad(d) for d in _flash_backward(*own, 0.0, True, scale=ctx.scale))
        keys = (d.unflatten(0, (-1, repeat)).sum(1) for d in (dkp, dvp, dks, dvs))
        return dq + own_dq, *keys, None, None


suffix_attention: Callable[..., Tensor] = _SuffixAttention.apply
"""``(q [H, S, D], prefix keys and values [K, P, D], suffix keys and values [K, S, D], pads, scale)`` to [H, S, D]:
every suffix token over its whole prefix and its own suffix before it."""


class Pads:
    """Where the tokens of ragged suffixes lie among n rows of R places."""

    def __init__(self, lengths: tuple[int, ...], device: torch.device):
        self.rows, self.longest = len(lengths), max(lengths)
        ragged = any(length < self.longest for length in lengths)
        places = [row * self.longest + t for row, length in enumerate(lengths) for t in range(length)]
        self.places = torch.tensor(places, device=device) if ragged else None

    def flat(self, x: Tensor) -> Tensor:
        """[heads, S, D] to [heads, n R, D], zeros in the pads.

        No two tokens share a place, so the backward gathers: no sums whose order threads decide.
        """
        if self.places is None:
            return x.contiguous()
        wide = x.new_zeros(x.shape[0], self.rows * self.longest, x.shape[2])
        return wide.index_copy(1, self.places, x)

    def pad(self, x: Tensor) -> Tensor:
        """[heads, S, D] to [n, heads, R, D]."""
        rows: Tensor = self.flat(x).unflatten(1, (self.rows, self.longest)).transpose(0, 1)
        return rows

    def unpad(self, x: Tensor) -> Tensor:
        """``pad`` undone."""
        flat: Tensor = x.transpose(0, 1).flatten(1, 2)
        return flat if self.places is None else flat.index_select(1, self.places)


def _repeat(x: Tensor, times: int) -> Tensor:
    """Keys or values [K, P, D] for every query head, [1, H, P, D]."""
    return x.repeat_interleave(times, 0)[None]

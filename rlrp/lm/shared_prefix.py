"""Attention over [shared prefix; own suffix]: a group's prompt goes through the model once, not once per completion.

The function is registered through transformers' attention interface, so any decoder that uses the interface runs
unchanged. Tokens of several groups are packed into one row without padding; everything token-wise (projections, MLP,
vocabulary) sees each prompt once, and only attention knows who may look at whom: a prefix token at the prefix before
it, a suffix token at its whole prefix and at its own suffix before it. The result equals the plain forward of every
[prompt; completion] up to rounding, gradients through the prefix included (PrefixGrouper, arXiv 2506.05433).

Shapes: H query heads, K key heads, D head size, P prefix tokens, n suffixes, R longest suffix, L packed tokens.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rlrp.lm import flash

NAME = "rlrp_shared_prefix"

# While a packed row is in flight transformers need not build its [L, L] mask: the layout says who sees whom.
_packed: contextvars.ContextVar[bool] = contextvars.ContextVar("packed", default=False)


LayerKv = dict[int, tuple[Tensor, Tensor]]
"""Keys and values by layer, [K, tokens, D] each."""


@dataclass
class GroupSpan:
    """Where one group lies in the packed row: P prefix tokens from ``start``, then its suffixes one after another.

    With ``cached`` the prefix is not in the row: its keys and values by layer, [K, P, D] each, are there already.
    """

    start: int
    prefix: int
    suffixes: tuple[int, ...]
    cached: LayerKv | None = None

    @property
    def suffix_start(self) -> int:
        return self.start + (0 if self.cached else self.prefix)

    @property
    def end(self) -> int:
        return self.suffix_start + sum(self.suffixes)


@dataclass
class PackedLayout:
    """The layout of one packed row; with ``store`` the groups' keys and values are kept for decoding.

    ``flex`` takes FlexAttention on a CPU too, for its tests; on a GPU it is what is taken.
    """

    groups: list[GroupSpan]
    store: KvStore | None = None
    flex: bool = False
    _pads: dict[int, flash.Pads] = field(default_factory=dict)
    _masks: dict[tuple[int, int], tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    _blocks: dict[int, Any] = field(default_factory=dict)

    def attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, L, H, D] for packed queries [1, H, L, D] and keys and values [1, K, L, D]."""
        if self.store is not None:
            for g, span in enumerate(self.groups):
                self.store.put(g, module.layer_idx, k[0, :, span.start : span.end], v[0, :, span.start : span.end])
        if (self.flex or q.device.type == "cuda") and not any(span.cached for span in self.groups):
            return self._flex(q, k, v, scale, window)
        # One split for all groups: its backward is a concatenation, where every slice would fill a row with zeros.
        sizes = [n for span in self.groups for n in (span.suffix_start - span.start, span.end - span.suffix_start)]
        q_parts, k_parts, v_parts = (x[0].split(sizes, dim=1) for x in (q, k, v))
        out = []
        for g, span in enumerate(self.groups):
            own = 2 * g + 1
            if span.cached:
                k_prefix, v_prefix = span.cached[module.layer_idx]
            else:
                k_prefix, v_prefix = k_parts[2 * g], v_parts[2 * g]
                out.append(_causal(q_parts[2 * g], k_prefix, v_prefix, scale, window))
            if span.end > span.suffix_start:
                out.append(
                    self._suffixes(g, q_parts[own], k_prefix, v_prefix, k_parts[own], v_parts[own], scale, window)
                )
        return torch.cat(out, dim=1).transpose(0, 1).unsqueeze(0)

    def _flex(self, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        from rlrp.lm.flex import flex_attend, packed_block_mask

        key = window or 0
        if key not in self._blocks:
            self._blocks[key] = packed_block_mask(self.groups, window, q.device)
        return flex_attend(q, k, v, self._blocks[key], scale)

    def _suffixes(
        self, g: int, q: Tensor, kp: Tensor, vp: Tensor, ks: Tensor, vs: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """All suffixes of a group at once.

        Where no window cuts the prefix, by torch's flash kernel on a CPU; else by one softmax over scores against the
        shared prefix and the own suffix.
        """
        heads, _, size = q.shape
        kv_heads, prefix, _ = kp.shape
        pads = self._pads_of(g, q.device)
        rows, length = pads.rows, pads.longest
        if (window is None or prefix + length <= window) and flash.is_available(q):
            return flash.suffix_attention(q, kp, vp, ks, vs, pads, scale)
        queries = pads.flat(q).view(kv_heads, heads // kv_heads, rows, length, size) * scale
        keys = pads.flat(ks).view(kv_heads, 1, rows, length, size)
        values = pads.flat(vs).view(kv_heads, 1, rows, length, size)
        to_prefix = queries.reshape(kv_heads, -1, size) @ kp.transpose(1, 2)
        to_prefix = to_prefix.view(kv_heads, -1, rows, length, prefix)
        to_own = queries @ keys.transpose(-1, -2)
        prefix_mask, own_mask = self._mask(g, window, q.device)
        if prefix_mask is not None:
            to_prefix = to_prefix.masked_fill(~prefix_mask, float("-inf"))
        to_own = to_own.masked_fill(~own_mask, float("-inf"))
        weights = torch.cat([to_prefix, to_own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        on_prefix, on_own = weights.split([prefix, length], dim=-1)
        out = (on_prefix.reshape(kv_heads, -1, prefix) @ vp).view(*queries.shape) + on_own @ values
        result: Tensor = out.reshape(heads, rows * length, size)
        return result if pads.places is None else result.index_select(1, pads.places)

    def _pads_of(self, g: int, device: torch.device) -> flash.Pads:
        if g not in self._pads:
            self._pads[g] = flash.Pads(self.groups[g].suffixes, device)
        return self._pads[g]

    def _mask(self, g: int, window: int | None, device: torch.device) -> tuple[Tensor | None, Tensor]:
        key = (g, window or 0)
        if key not in self._masks:
            prefix, length = self.groups[g].prefix, max(self.groups[g].suffixes)
            t = torch.arange(length, device=device)
            own = t[:, None] >= t[None, :]
            to_prefix = None
            if window is not None:
                own &= t[:, None] - t[None, :] < window
                if prefix + length > window:
                    to_prefix = prefix + t[:, None] - torch.arange(prefix, device=device)[None, :] < window
            self._masks[key] = to_prefix, own
        return self._masks[key]


class KvStore:
    """Keys and values of packed groups, per group and layer: [K, tokens of prefix and suffixes, D] each."""

    def __init__(self) -> None:
        self.kv: dict[int, LayerKv] = {}

    def put(self, group: int, layer: int, k: Tensor, v: Tensor) -> None:
        self.kv.setdefault(group, {})[layer] = k, v

    def of(self, group: int) -> LayerKv:
        """By layer."""
        return self.kv[group]


def pack(
    prefixes: Sequence[Sequence[int]],
    suffixes: Sequence[Sequence[Sequence[int]]],
    cached: Sequence[LayerKv | None] | None = None,
) -> PackedLayout:
    """The layout of groups laid end to end; prefixes must not be empty, and a cached one is not laid."""
    spans, start = [], 0
    for g, (prefix, group) in enumerate(zip(prefixes, suffixes, strict=True)):
        if not prefix:
            raise ValueError("a prompt needs at least one token")
        lengths = tuple(len(suffix) for suffix in group)
        spans.append(GroupSpan(start, len(prefix), lengths, cached[g] if cached else None))
        start = spans[-1].end
    return PackedLayout(spans)


def packed_inputs(
    prefixes: Sequence[Sequence[int]],
    suffixes: Sequence[Sequence[Sequence[int]]],
    device: torch.device,
    cached: Sequence[LayerKv | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Token ids and position ids, [1, L] each; every suffix continues the positions of its prefix."""
    ids: list[int] = []
    positions: list[int] = []
    for g, (prefix, group) in enumerate(zip(prefixes, suffixes, strict=True)):
        if not (cached and cached[g]):
            ids += prefix
            positions += range(len(prefix))
        for suffix in group:
            ids += suffix
            positions += range(len(prefix), len(prefix) + len(suffix))
    return torch.tensor([ids], device=device), torch.tensor([positions], device=device)


@contextlib.contextmanager
def packed_row() -> Iterator[None]:
    """Around a forward of a packed row: the model builds no mask of its own."""
    token = _packed.set(True)
    try:
        yield
    finally:
        _packed.reset(token)


def shares_prefix(model: Any) -> bool:
    """Whether the model runs on our attention (``rlrp.lm.self_check.use_shared_prefix``)."""
    return bool(getattr(model.config, "_attn_implementation", None) == NAME)


def decoder_of(model: Any) -> Any:
    """The decoder stack below the vocabulary projection, through a PEFT wrapper if there is one."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_decoder() if hasattr(base, "get_decoder") else base.model


def keep_lower_layers(model: Any, share: float) -> None:
    """Cut the decoder to the lower ``share`` of its layers, in (0, 1], at least one."""
    decoder = decoder_of(model)
    kept = max(1, round(share * len(decoder.layers)))
    decoder.layers = decoder.layers[:kept]
    decoder.config.num_hidden_layers = kept


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal self-attention of one prefix: q [H, P, D], k and v [K, P, D]."""
    length = q.shape[1]
    mask = None
    if window is not None and length > window:
        t = torch.arange(length, device=q.device)
        mask = (t[:, None] >= t[None, :]) & (t[:, None] - t[None, :] < window)
    repeat = q.shape[0] // k.shape[0]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, dim=0), v.repeat_interleave(repeat, dim=0)
    out = torch.nn.functional.scaled_dot_product_attention(
        q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return out[0]


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    shared: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; ``shared`` is the layout passed to the model's forward, if any."""
    if shared is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return shared.attend(module, query, key, value, scale, sliding_window), None


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    return None if _packed.get() else sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)

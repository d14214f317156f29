"""The decoder of Llama's relatives written out for inference on a CPU: the same numbers, a third of the operations.

A decoding step of 32 rows through transformers' modules is some sixty operations a layer, half of its time outside the
matrix products. Here a layer is four products on packed weights, with activation, gate and residual inside them, two
norms, one rotation for queries and keys together, and the attention of ``rlrp.lm.shared_prefix``. Models that are built
otherwise, or whose outputs differ (``use_shared_prefix`` compares them), run through their own modules.

Shapes: L rows (packed tokens), C hidden size, H query heads, K key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlrp.lm.packed import Packed, can_pack
from rlrp.lm.shared_prefix import decoder_of

_ACTIVATIONS = {"silu": ("swish", ""), "gelu_pytorch_tanh": ("gelu", "tanh"), "gelu": ("gelu", "none")}
"""transformers' names to oneDNN's."""
_ONE_CENTRED = {"gemma3_text"}
"""Families whose norms multiply by 1 + weight."""
_FAMILIES = {"llama", "mistral", "qwen2", "qwen3"} | _ONE_CENTRED

Norm = Callable[[Tensor], Tensor]


def lean_decoder(model: Any) -> LeanDecoder | None:
    """The model's decoder written out, on a packed copy of its weights as they are now; None if it cannot be."""
    decoder = decoder_of(model)
    config = decoder.config
    if config.model_type not in _FAMILIES or not can_pack(model) or _activation(config) not in _ACTIVATIONS:
        return None
    if any(type(product) is not nn.Linear for layer in decoder.layers for product in _products(layer)):
        return None  # an adapter, a quantised layer: not what is written here
    return LeanDecoder(decoder)


class LeanDecoder:
    """Hidden states for packed rows; the weights are copies."""

    def __init__(self, decoder: Any):
        self.decoder = decoder
        self.layers = [_Layer.of(layer, decoder.config) for layer in decoder.layers]
        self.norm = _norm(decoder.norm, decoder.config)
        kinds = getattr(decoder.config, "layer_types", None)
        # Gemma 3 turns positions otherwise in its sliding layers; the others have one rotation for all.
        self.kinds = list(kinds) if kinds and decoder.config.model_type in _ONE_CENTRED else [None] * len(self.layers)

    def __call__(self, ids: Tensor, positions: Tensor, layout: Any) -> Tensor:
        """Token ids and positions [1, L]; the last hidden states [L, C]."""
        x = self.decoder.embed_tokens(ids)[0]
        turns = {kind: self._turn(x, positions, kind) for kind in set(self.kinds)}
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            x = layer(x, turns[kind], layout)
        return self.norm(x)

    def _turn(self, x: Tensor, positions: Tensor, kind: str | None) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines [L, 1, D]: with x's halves swapped, x cos + swapped sin is the rotation."""
        cos, sin = self.decoder.rotary_emb(x, positions, *([kind] if kind else []))
        half = sin.shape[-1] // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        return cos[0, :, None], signed[0, :, None]


@dataclass
class _Layer:
    """One decoder layer; ``after_attention`` and ``after_mlp`` are Gemma's norms before the residual, if any."""

    attention: Any
    heads: int
    kv_heads: int
    window: int | None
    activation: tuple[str, str]
    qkv: Packed
    out: Packed
    gate: Packed
    up: Packed
    down: Packed
    before_attention: Norm
    before_mlp: Norm
    head_norm: Norm | None
    after_attention: Norm | None
    after_mlp: Norm | None

    @classmethod
    def of(cls, layer: Any, config: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        size = attention.head_dim
        heads, kv_heads = attention.q_proj.out_features // size, attention.k_proj.out_features // size
        four_norms = hasattr(layer, "pre_feedforward_layernorm")
        before_mlp = layer.pre_feedforward_layernorm if four_norms else layer.post_attention_layernorm
        # Mistral keeps its window in the config alone; the others give each layer its own, or None.
        window = getattr(attention, "sliding_window", None)
        if config.model_type == "mistral":
            window = getattr(config, "sliding_window", None)
        return cls(
            attention,
            heads,
            kv_heads,
            window,
            _ACTIVATIONS[_activation(config)],
            Packed(attention.q_proj, attention.k_proj, attention.v_proj),
            Packed(attention.o_proj),
            Packed(mlp.gate_proj),
            Packed(mlp.up_proj),
            Packed(mlp.down_proj),
            _norm(layer.input_layernorm, config),
            _norm(before_mlp, config),
            _head_norm(attention, heads, kv_heads, config) if hasattr(attention, "q_norm") else None,
            _norm(layer.post_attention_layernorm, config) if four_norms else None,
            _norm(layer.post_feedforward_layernorm, config) if four_norms else None,
        )

    def __call__(self, x: Tensor, turn: tuple[Tensor, Tensor], layout: Any) -> Tensor:
        """x [L, C] to [L, C]."""
        size = self.attention.head_dim
        qkv = self.qkv(self.before_attention(x)).view(len(x), -1, size)
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], dim=1)
        if self.head_norm is not None:
            qk = self.head_norm(qk)
        cos, sin = turn
        qk = torch.addcmul(qk * cos, qk.roll(size // 2, -1), sin)
        q, k = qk.split([self.heads, self.kv_heads], dim=1)
        attended = layout.attend(
            self.attention, *(part.transpose(0, 1)[None] for part in (q, k, v)), self.attention.scaling, self.window
        ).reshape(len(x), -1)
        x = self._residual(self.out, attended, x, self.after_attention)
        y = self.before_mlp(x)
        y = self.up.combined(y, self.gate.activated(y, *self.activation), "mul")
        return self._residual(self.down, y, x, self.after_mlp)

    @staticmethod
    def _residual(product: Packed, y: Tensor, x: Tensor, after: Norm | None) -> Tensor:
        return product.combined(y, x, "add") if after is None else after(product(y)).add_(x)


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None))


def _norm(module: Any, config: Any) -> Norm:
    weight, eps = _norm_weight(module, config), _epsilon(module)
    return lambda x: nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)


def _head_norm(attention: Any, heads: int, kv_heads: int, config: Any) -> Norm:
    """The norms of queries and keys together, [L, H + K, D]."""
    weight = torch.cat(
        [
            _norm_weight(attention.q_norm, config).expand(heads, -1),
            _norm_weight(attention.k_norm, config).expand(kv_heads, -1),
        ]
    )
    eps = _epsilon(attention.q_norm)
    return lambda x: nn.functional.rms_norm(x, (x.shape[-1],), None, eps).mul_(weight)


def _norm_weight(module: Any, config: Any) -> Tensor:
    weight: Tensor = module.weight.detach()
    return weight + 1.0 if config.model_type in _ONE_CENTRED else weight.clone()


def _epsilon(module: Any) -> float:
    return float(module.eps if hasattr(module, "eps") else module.variance_epsilon)


def _products(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    ]

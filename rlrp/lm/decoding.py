"""The decoding side of shared prompts: steps of many rows at once, each over its prompt and its own suffix.

Shapes: N active rows, T suffix places per row, R prompts with active rows, G most rows of one prompt, P longest prompt,
H query heads, K key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlrp.lm.prefill import PromptKv

_STALE_SHARE = 0.75


@dataclass
class Row:
    """One completion in flight; ``slot`` is its place in the suffix cache."""

    request: int
    index: int
    prompt_length: int
    uniforms: Any
    slot: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


class DecodeLayout:
    """The attention layout of one decoding step: N rows, each over its prompt's keys and its own suffix's.

    Suffix keys and values live in [slots, K, T, D] per layer, those of the prompts in [R, K, P, D], padded to the
    longest, so that one product serves all rows; ``begin`` prepares a step over the first N slots.
    """

    def __init__(self, slots: int, places: int):
        self.slots, self.places = slots, places
        self.own: dict[int, tuple[Tensor, Tensor]] = {}
        self.prompts: dict[int, tuple[Tensor, Tensor]] = {}
        self.stacked: list[int] = []
        self.lengths: dict[int, int] = {}

    def admit(self, requests: Sequence[int], kv: Sequence[PromptKv]) -> None:
        """Take new prompts' keys and values beside those that are there."""
        self.lengths.update(zip(requests, (prompt.length for prompt in kv), strict=True))
        self.stacked += requests
        longest = max(self.lengths[request] for request in self.stacked)
        for layer in list(kv[0].layers):
            new = [prompt.layers.pop(layer) for prompt in kv]
            old = self.prompts.pop(layer, (None, None))
            self.prompts[layer] = (
                _stack(old[0], [k for k, _ in new], longest),
                _stack(old[1], [v for _, v in new], longest),
            )

    def begin(self, active: Sequence[Row], device: torch.device) -> None:
        """Rows in slot order; each is about to write its token number ``len(ids) - 1`` of the suffix."""
        self._forget({row.request for row in active})
        place = {request: r for r, request in enumerate(self.stacked)}
        slots: list[list[int]] = [[] for _ in self.stacked]
        for row in active:
            slots[place[row.request]].append(row.slot)
        self.n, self.most = len(active), max(map(len, slots))
        pad = [own[g] if g < len(own) else 0 for own in slots for g in range(self.most)]
        unpad = [0] * self.n
        for r, own in enumerate(slots):
            for g, slot in enumerate(own):
                unpad[slot] = r * self.most + g
        self.aligned = pad == list(range(self.n))
        self.pad, self.unpad = torch.tensor(pad, device=device), torch.tensor(unpad, device=device)
        self.at = torch.tensor([len(row.ids) - 1 for row in active], device=device)
        self.index = torch.arange(self.n, device=device)
        self.longest = int(self.at.max()) + 1
        self.prompt_lengths = torch.tensor([row.prompt_length for row in active], device=device)
        self.masks: dict[int, tuple[Tensor | None, Tensor | None]] = {}

    def _forget(self, live: set[int]) -> None:
        """Drop prompts without rows once they are many; copying the others for each would cost more."""
        if len(live) >= _STALE_SHARE * len(self.stacked):
            return
        keep = [r for r, request in enumerate(self.stacked) if request in live]
        self.stacked = [self.stacked[r] for r in keep]
        longest = max(self.lengths[request] for request in self.stacked)
        for layer, (k, v) in self.prompts.items():
            self.prompts[layer] = k[keep, :, :longest].contiguous(), v[keep, :, :longest].contiguous()

    def move(self, source: int, target: int) -> None:
        """Move a row's suffix to another slot (the last active row fills the place of a finished one)."""
        for pair in self.own.values():
            for tensor in pair:
                tensor[target] = tensor[source]

    def attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, N, H, D] for the rows' new queries [1, H, N, D] and keys and values [1, K, N, D]."""
        layer = module.layer_idx
        heads, n, size = q.shape[1:]
        kv_heads = k.shape[1]
        if layer not in self.own:
            shape = (self.slots, kv_heads, self.places, size)
            self.own[layer] = q.new_zeros(shape), q.new_zeros(shape)
        own_k, own_v = self.own[layer]
        own_k[self.index, :, self.at] = k[0].transpose(0, 1)
        own_v[self.index, :, self.at] = v[0].transpose(0, 1)
        prompt_k, prompt_v = (part.flatten(0, 1) for part in self.prompts[layer])
        places = prompt_k.shape[1]
        queries = (q[0].transpose(0, 1) * scale).reshape(n * kv_heads, -1, size)
        prompt_mask, own_mask = self._masks(window, places)
        to_own = queries.bmm(own_k[:n].flatten(0, 1)[:, : self.longest].transpose(1, 2))
        if own_mask is not None:
            to_own.view(n, -1, self.longest).masked_fill_(own_mask, float("-inf"))
        to_prompt = self._by_prompt(queries, kv_heads).bmm(prompt_k.transpose(1, 2))
        if prompt_mask is not None:
            to_prompt.view(len(self.stacked), kv_heads, self.most, -1, places).masked_fill_(prompt_mask, float("-inf"))
        # What is as wide as the prompts stays in their order; only what is as wide as a reply changes it.
        scores = torch.cat([to_prompt, self._by_prompt(to_own, kv_heads)], -1)
        weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
        on_prompt, on_own = weights.split([places, self.longest], dim=-1)
        out = self._by_row(on_prompt.bmm(prompt_v), kv_heads)
        own = self._by_row(on_own, kv_heads).bmm(own_v[:n].flatten(0, 1)[:, : self.longest])
        return (out + own).view(1, n, heads, size)

    def _by_prompt(self, rows: Tensor, kv_heads: int) -> Tensor:
        """[N * K, H/K, X] to [R * K, G * H/K, X]; a prompt with fewer rows repeats row 0, whose results are dropped."""
        repeat, x = rows.shape[1:]
        if not self.aligned:
            rows = rows.view(self.n, -1)[self.pad]
        grouped = rows.view(len(self.stacked), self.most, kv_heads, repeat, x).transpose(1, 2)
        return grouped.reshape(len(self.stacked) * kv_heads, -1, x)

    def _by_row(self, prompts: Tensor, kv_heads: int) -> Tensor:
        """[R * K, G * H/K, X] back to [N * K, H/K, X]."""
        r, x = len(self.stacked), prompts.shape[-1]
        rows = prompts.view(r, kv_heads, self.most, -1, x).transpose(1, 2).reshape(r * self.most, kv_heads, -1, x)
        return (rows if self.aligned else rows[self.unpad]).flatten(0, 1)

    def _masks(self, window: int | None, places: int) -> tuple[Tensor | None, Tensor | None]:
        """Which places of its prompt [R, 1, G, 1, P] and of its own suffix [N, 1, T] a row may not look at, if any."""
        key = window or 0
        if key not in self.masks:
            t, p = torch.arange(self.longest, device=self.at.device), torch.arange(places, device=self.at.device)
            at, length = self.at[:, None], self.prompt_lengths[:, None]
            own, prompt = t[None, :] > at, p[None, :] >= length
            if window is not None:
                own |= at - t[None, :] >= window
                prompt |= length + at - p[None, :] >= window
            by_prompt = prompt[self.pad].view(len(self.stacked), 1, self.most, 1, places)
            self.masks[key] = by_prompt if bool(prompt.any()) else None, own[:, None] if bool(own.any()) else None
        return self.masks[key]


def _stack(old: Tensor | None, new: Sequence[tuple[Tensor, Tensor]], places: int) -> Tensor:
    """[R, K, places, D]: those that were there, then the new ones, each of two parts [K, p, D]."""
    before = 0 if old is None else old.shape[0]
    kv_heads, _, size = new[0][0].shape
    stack = new[0][0].new_zeros(before + len(new), kv_heads, places, size)
    if old is not None:
        stack[:before, :, : old.shape[2]] = old
    for r, (shared, own) in enumerate(new, start=before):
        stack[r, :, : shared.shape[1]] = shared
        stack[r, :, shared.shape[1] : shared.shape[1] + own.shape[1]] = own
    return stack

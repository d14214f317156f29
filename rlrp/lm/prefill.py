"""Prompts through the model before anything is said: those that begin alike together, and what was seen before not
at all.

Shapes: R prompts, C hidden size, K key heads, p tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlrp.lm.inference import Inference
from rlrp.lm.shared_prefix import KvStore, LayerKv, pack, packed_inputs

PREFILL_TOKENS = 8192
"""Most tokens of one forward: what bounds its memory."""
PREFIX_CACHE_BYTES = 256 << 20
_WORTH_SHARING = 16
_WORTH_KEEPING = 64


@dataclass(frozen=True)
class PromptKv:
    """A prompt's keys and its values by layer, each as two views [K, p, D]: what it shares with others, its own end."""

    length: int
    layers: dict[int, tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]


def prefill(
    model: Inference, prompts: Sequence[Sequence[int]], cache: PrefixCache | None = None
) -> tuple[list[PromptKv], Tensor]:
    """Run prompts: the tokens that several begin with (a card) once, those that the cache holds not at all.

    Returns:
        For each prompt its keys and values, and the hidden states [R, C] at the last tokens.
    """
    kept = [PromptKv(len(prompt), {}) for prompt in prompts]
    hidden: list[Tensor] = [torch.empty(0)] * len(prompts)
    for bundles in _within_budget(_bundles(prompts, cache), prompts):
        _run(model, prompts, bundles, kept, hidden)
    if cache is not None:
        for prompt, kv in zip(prompts, kept, strict=True):
            cache.put(prompt, kv)
    return kept, torch.stack(hidden)


@dataclass(frozen=True)
class Bundle:
    """Prompts that share their first ``shared`` tokens; ``cached`` holds those tokens' keys and values, if any do."""

    shared: int
    members: list[int]
    cached: LayerKv | None = None

    def own(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What each member adds; a prompt alone is shared whole."""
        if len(self.members) == 1 and self.cached is None:
            return []
        return [list(prompts[m][self.shared :]) for m in self.members]

    def tokens(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many go through the model."""
        return (0 if self.cached else self.shared) + sum(len(tail) for tail in self.own(prompts))


def _bundles(prompts: Sequence[Sequence[int]], cache: PrefixCache | None) -> list[Bundle]:
    known: dict[tuple[int, int], Bundle] = {}
    fresh: list[int] = []
    for at, prompt in enumerate(prompts):
        entry, shared = cache.longest(prompt) if cache is not None else (None, 0)
        if entry is None:
            fresh.append(at)
            continue
        key = id(entry), shared
        if key not in known:
            known[key] = Bundle(shared, [], {n: (k[:, :shared], v[:, :shared]) for n, (k, v) in entry.layers.items()})
        known[key].members.append(at)
    shared_by = common_beginnings([prompts[at] for at in fresh])
    return [*known.values(), *(Bundle(shared, [fresh[m] for m in members]) for shared, members in shared_by)]


def _run(
    model: Inference,
    prompts: Sequence[Sequence[int]],
    bundles: list[Bundle],
    kept: list[PromptKv],
    hidden: list[Tensor],
) -> None:
    """One forward of these bundles; fills in their members' keys, values and last hidden states."""
    prefixes = [list(prompts[bundle.members[0]][: bundle.shared]) for bundle in bundles]
    tails = [bundle.own(prompts) for bundle in bundles]
    cached = [bundle.cached for bundle in bundles]
    layout = pack(prefixes, tails, cached)
    layout.store = KvStore()
    ids, positions = packed_inputs(prefixes, tails, model.device, cached)
    out = model.hidden(ids, positions, layout)
    for b, (bundle, span) in enumerate(zip(bundles, layout.groups, strict=True)):
        start = span.suffix_start - span.start
        for place, member in enumerate(bundle.members):
            end = start + (span.suffixes[place] if span.suffixes else 0)
            for layer, pair in layout.store.of(b).items():
                shared = bundle.cached[layer] if bundle.cached else tuple(part[:, : bundle.shared] for part in pair)
                (k, v), (own_k, own_v) = shared, (part[:, start:end] for part in pair)
                kept[member].layers[layer] = (k, own_k), (v, own_v)
            hidden[member] = out[span.start + end - 1]
            start = end


def common_beginnings(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Prompts bundled by what they begin with: (number of shared tokens, members); every prompt is in one bundle.

    A bundle of several leaves each member at least one token of its own; a prompt alone is shared whole.
    """
    bundles: list[tuple[int, list[int]]] = []
    for at in sorted(range(len(prompts)), key=lambda i: tuple(prompts[i])):
        prompt = prompts[at]
        if bundles:
            shared, members = bundles[-1]
            common = _common(prompts[members[0]], prompt, min(shared, len(prompt) - 1, len(prompts[members[0]]) - 1))
            # Cutting a bundle's beginning much shorter for one more member would cost more than it saves.
            if common >= _WORTH_SHARING and (common >= 0.7 * shared or len(members) == 1):
                bundles[-1] = (common, [*members, at])
                continue
        bundles.append((len(prompt), [at]))
    return bundles


def _common(first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray, most: int) -> int:
    """How many tokens two beginnings share, of at most ``most``."""
    most = max(most, 0)
    same = np.asarray(first[:most]) == np.asarray(second[:most])
    return most if same.all() else int(same.argmin())


def _within_budget(bundles: Sequence[Bundle], prompts: Sequence[Sequence[int]]) -> Iterator[list[Bundle]]:
    batch: list[Bundle] = []
    tokens = 0
    for bundle in bundles:
        size = bundle.tokens(prompts)
        if batch and tokens + size > PREFILL_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(bundle)
        tokens += size
    if batch:
        yield batch


@dataclass(eq=False)
class CachedPrompt:
    """Token ids and their keys and values by layer, [K, p, D] each."""

    ids: np.ndarray
    layers: LayerKv

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.nbytes for pair in self.layers.values() for part in pair)


class PrefixCache:
    """Keys and values of prompts seen before, for the next one that begins with the same tokens: a card met again, a
    conversation that goes on. They are those of one set of weights: ``clear`` it when the weights change.

    The least recently used go first when there are more than ``limit`` bytes.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.entries: list[CachedPrompt] = []

    def clear(self) -> None:
        self.entries = []

    def longest(self, prompt: Sequence[int]) -> tuple[CachedPrompt | None, int]:
        """The entry that most of the prompt begins like, and how far; at least one token is left to compute."""
        ids = np.asarray(prompt)
        best, length = None, 0
        for entry in self.entries:
            common = _common(entry.ids, ids, min(len(entry.ids), len(ids) - 1))
            if common > length:
                best, length = entry, common
        if best is None or length < _WORTH_SHARING:
            return None, 0
        self.entries.remove(best)
        self.entries.append(best)
        return best, length

    def put(self, prompt: Sequence[int], kv: PromptKv) -> None:
        """Keep a prompt, unless most of it is there already; a copy, so that nothing larger is kept alive with it."""
        _, known = self.longest(prompt)
        if len(prompt) - known < _WORTH_KEEPING:
            return
        if sum(part.nbytes for pair in kv.layers.values() for parts in pair for part in parts) > self.limit:
            return
        layers = {n: (torch.cat(k, dim=1), torch.cat(v, dim=1)) for n, (k, v) in kv.layers.items()}
        entry = CachedPrompt(np.asarray(prompt), layers)
        # What the new one begins with need not be kept twice.
        self.entries = [e for e in self.entries if not np.array_equal(e.ids, entry.ids[: len(e.ids)])]
        self.entries.append(entry)
        while sum(e.size for e in self.entries) > self.limit:
            self.entries.pop(0)

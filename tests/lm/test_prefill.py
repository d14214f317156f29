"""The cache of prompts: what it finds changes nothing that is said, and it forgets in time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, WINDOW, tiny_lm

from rlrp.lm import prefill as prefilling
from rlrp.lm.prefill import PrefixCache, PromptKv
from rlrp.lm.sampling import Sampler, SampleRequest, SamplingSettings

CARD = tuple(range(30, 30 + 2 * WINDOW + 80))
SETTINGS = SamplingSettings(max_new_tokens=10, temperature=1.0)


def tokens_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each prefill forward had."""
    counts: list[int] = []
    real = prefilling.packed_inputs

    def counting(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        ids, positions = real(*args)
        counts.append(ids.shape[1])
        return ids, positions

    monkeypatch.setattr(prefilling, "packed_inputs", counting)
    return counts


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_card_seen_before_is_not_computed_again_and_the_replies_are_the_same(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm(architecture)
    counts = tokens_run(monkeypatch)
    sampler = Sampler(lm)
    sampler.sample([SampleRequest((*CARD, 5, 6), (0,))], SETTINGS)
    second = [
        SampleRequest((*CARD, 9, 9, 2), (1, 2)),
        SampleRequest((*CARD, 5, 6, 7, 8, 1), (3,)),
        SampleRequest((1, 2, 3), (4,)),
        SampleRequest((*CARD, 5), (5,)),  # wholly in the cache: one token is left to compute
    ]
    warm = sampler.sample(second, SETTINGS)
    assert counts == [len(CARD) + 2, 3 + 3 + 3 + 1]
    cold = [Sampler(lm).sample([request], SETTINGS)[0] for request in second]
    assert [[c.ids for c in group] for group in warm] == [[c.ids for c in group] for group in cold]
    for ours, theirs in zip(warm, cold, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.logps == pytest.approx(b.logps, abs=1e-4)


def test_a_conversation_goes_on_from_its_last_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = tokens_run(monkeypatch)
    sampler, history = Sampler(tiny_lm()), CARD
    for _ in range(3):
        sampler.sample([SampleRequest(history, (0,))], SETTINGS)
        history = (*history, *range(100, 170))
    assert counts == [len(CARD), 70, 70]
    assert len(sampler.cache.entries) == 1  # the longest; the earlier ones are its beginnings


def test_other_weights_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = tokens_run(monkeypatch)
    sampler = Sampler(tiny_lm())
    for _ in range(2):
        sampler.sample([SampleRequest(CARD, (0,))], SETTINGS)
        sampler.forget()
    assert counts == [len(CARD)] * 2


def kv(tokens: int) -> PromptKv:
    part = torch.zeros(1, tokens, 2)
    return PromptKv(tokens, {0: ((part, part[:, :0]), (part, part[:, :0]))})


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(limit=2 * 100 * 2 * 2 * 4)  # two prompts of 100 tokens: keys and values of 2 floats each
    a, b, c = ([n] * 100 for n in (1, 2, 3))
    cache.put(a, kv(100))
    cache.put(b, kv(100))
    assert cache.longest([*a, 7])[1] == 100
    cache.put(c, kv(100))
    assert [int(entry.ids[0]) for entry in cache.entries] == [1, 3]
    cache.put([4] * 300, kv(300))  # larger than the whole cache
    assert sum(entry.size for entry in cache.entries) <= cache.limit


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=120), max_size=6),
    st.lists(st.integers(0, 1), min_size=1, max_size=120),
)
def test_what_is_found_is_the_longest_common_beginning(kept: list[list[int]], prompt: list[int]) -> None:
    cache = PrefixCache(limit=1 << 30)
    for ids in kept:
        cache.put(ids, kv(len(ids)))
    entry, length = cache.longest(prompt)

    def common(ids: list[int]) -> int:
        most = min(len(ids), len(prompt) - 1)
        return next((i for i in range(most) if ids[i] != prompt[i]), most)

    best = max((common(e.ids.tolist()) for e in cache.entries), default=0)
    assert length == (best if best >= 16 else 0)
    assert (entry is None) == (length == 0)
    if entry is not None:
        assert entry.ids[:length].tolist() == prompt[:length]

"""Prompts that begin alike, and rows that decode together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, WINDOW, tiny_lm

from rlrp.lm.inference import inference
from rlrp.lm.prefill import common_beginnings, prefill
from rlrp.lm.sampling import Sampler, SampleRequest, SamplingSettings

PROMPTS = st.lists(
    st.tuples(st.sampled_from([0, 10, 20, 40]), st.lists(st.integers(0, 2), min_size=1, max_size=6)), max_size=8
).map(lambda found: [[7] * shared + own for shared, own in found])


@given(PROMPTS)
def test_every_prompt_is_in_one_bundle_and_begins_as_its_bundle_does(prompts: list[list[int]]) -> None:
    bundles = common_beginnings(prompts)
    assert sorted(m for _, members in bundles for m in members) == list(range(len(prompts)))
    for shared, members in bundles:
        first = prompts[members[0]]
        assert all(prompts[m][:shared] == first[:shared] for m in members)
        if len(members) == 1:
            assert shared == len(first)
        else:
            assert all(len(prompts[m]) > shared for m in members)


def test_a_cards_prompts_are_bundled_and_strangers_are_not() -> None:
    card, other = list(range(60)), list(range(100, 160))
    found = common_beginnings([[*card, 1], [*other, 1], [*card, 2, 3], [9]])
    assert sorted((shared, sorted(members)) for shared, members in found) == [(1, [3]), (60, [0, 2]), (61, [1])]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_shared_beginning_changes_nothing_that_is_said(architecture: str) -> None:
    lm = tiny_lm(architecture)
    card = tuple(range(30, 30 + 2 * WINDOW + 16))
    requests = [SampleRequest((*card, 5), (0, 1)), SampleRequest((*card, 9, 9, 2), (2,)), SampleRequest((1, 2), (3,))]
    settings = SamplingSettings(max_new_tokens=10, temperature=1.0)
    together = Sampler(lm).sample(requests, settings)
    alone = [Sampler(lm).sample([request], settings)[0] for request in requests]
    assert [[c.ids for c in group] for group in together] == [[c.ids for c in group] for group in alone]
    for ours, theirs in zip(together, alone, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.logps == pytest.approx(b.logps, abs=1e-4)


def test_the_hidden_state_of_a_bundled_prompt_is_its_own() -> None:
    lm = tiny_lm("Llama")
    prompts = [(*range(40), 5), (*range(40), 9, 9), (3,)]
    with torch.no_grad(), inference(lm.model) as model:
        _, together = prefill(model, prompts)
        alone = torch.cat([prefill(model, [prompt])[1] for prompt in prompts])
    assert torch.allclose(together, alone, atol=1e-5)

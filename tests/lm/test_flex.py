"""FlexAttention's reference against the two-call attention, on the same packed rows."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from tiny_models import ARCHITECTURES

from rlrp.lm import scoring
from rlrp.lm.scoring import TokenGroup, token_logprobs
from rlrp.lm.shared_prefix import PackedLayout, pack

from .test_scoring import MIXED, groups, pair


def with_flex(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every layout of the scorer takes FlexAttention; returns how many did."""
    made: list[int] = []

    def flexible(*args: Any) -> PackedLayout:
        layout = pack(*args)
        layout.flex = True
        made.append(len(layout.groups))
        return layout

    monkeypatch.setattr(scoring, "pack", flexible)
    return made


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=5)
@given(groups=groups)
def test_it_equals_the_two_call_attention(architecture: str, groups: list[TokenGroup]) -> None:
    model, _ = pair(architecture)
    with torch.no_grad():
        expected = token_logprobs(model, groups).logp
        with pytest.MonkeyPatch.context() as patch:
            made = with_flex(patch)
            got = token_logprobs(model, groups).logp
    assert made or not sum(group.scored_tokens for group in groups)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_its_mask_is_computed_once_per_row_and_window(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlrp.lm import flex

    made: list[int | None] = []
    real = flex.packed_block_mask
    monkeypatch.setattr(
        flex, "packed_block_mask", functools.wraps(real)(lambda g, w, d: made.append(w) or real(g, w, d))
    )
    with_flex(monkeypatch)
    with torch.no_grad():
        token_logprobs(pair("Gemma3")[0], MIXED)
    assert len(made) == 2  # two layers, one with a sliding window

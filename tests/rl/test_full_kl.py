"""The KL over the whole vocabulary against torch's own on the full logits, value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlrp.lm import scoring
from rlrp.rl.full_kl import full_kl

VOCABULARY, HIDDEN = 11, 5


def written_out(
    policy: torch.Tensor, reference: torch.Tensor, head: Any, softcap: float | None, temperature: float, reverse: bool
) -> torch.Tensor:
    logps = []
    for states in (policy, reference):
        logits = head(states)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        logps.append((logits / temperature).log_softmax(-1))
    now, anchor = logps
    target, given_ = (anchor, now) if reverse else (now, anchor)
    return torch.nn.functional.kl_div(given_, target, reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_chunks_are_exact(monkeypatch: pytest.MonkeyPatch, softcap: float | None, reverse: bool, rows: int) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(False)
    states, reference = torch.randn(2, rows, HIDDEN)
    monkeypatch.setattr(scoring, "CHUNK_ROWS", {"cpu": 3})  # 7 rows are chunks of 3, 3 and 1
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 0)
    assert len(list(scoring.vocabulary_chunks(rows, head.weight))) == (rows + 2) // 3
    ours_leaf, theirs_leaf = states.clone().requires_grad_(), states.clone().requires_grad_()
    ours = full_kl(ours_leaf, reference, head, softcap, temperature=0.7, reverse=reverse)
    theirs = written_out(theirs_leaf, reference, head, softcap, 0.7, reverse)
    assert ours.shape == (rows,)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    (ours**2).sum().backward()
    (theirs**2).sum().backward()
    torch.testing.assert_close(ours_leaf.grad, theirs_leaf.grad, atol=1e-6, rtol=1e-5)


@given(st.integers(0, 10**6))
def test_never_negative_and_nothing_for_equal_models(seed: int) -> None:
    torch.manual_seed(seed)
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)
    states, reference = torch.randn(2, 4, HIDDEN)
    with torch.no_grad():
        assert (full_kl(states, reference, head) > -1e-6).all()
        assert full_kl(states, states, head).tolist() == [0.0] * 4


def test_only_the_policy_learns_from_it() -> None:
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False).requires_grad_(False)
    states, reference = torch.randn(4, HIDDEN, requires_grad=True), torch.randn(4, HIDDEN, requires_grad=True)
    full_kl(states, reference, head).sum().backward()
    assert states.grad is not None and states.grad.abs().max() > 0
    assert reference.grad is None

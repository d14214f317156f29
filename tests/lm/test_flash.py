"""The flash kernel over prefix and suffixes against one softmax written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlrp.lm import flash
from rlrp.lm.flash import Pads, suffix_attention


def written_out(q: Tensor, kp: Tensor, vp: Tensor, ks: Tensor, vs: Tensor, lengths: list[int], scale: float) -> Tensor:
    repeat = q.shape[0] // kp.shape[0]
    kp, vp, ks, vs = (x.repeat_interleave(repeat, 0) for x in (kp, vp, ks, vs))
    out, start = [], 0
    for length in lengths:
        for t in range(length):
            keys = torch.cat([kp, ks[:, start : start + t + 1]], dim=1)
            values = torch.cat([vp, vs[:, start : start + t + 1]], dim=1)
            weights = (keys @ q[:, start + t, :, None] * scale).softmax(1)
            out.append((weights * values).sum(1))
        start += length
    return torch.stack(out, dim=1)


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any),
    prefix=st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    size=st.sampled_from([8, 16]),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_are_those_of_one_softmax(
    lengths: list[int], prefix: int, heads: tuple[int, int], size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    shapes = ((heads[0], tokens), (heads[1], prefix), (heads[1], prefix), (heads[1], tokens), (heads[1], tokens))
    parts = [
        torch.randn(*shape, size, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    ]
    ours = suffix_attention(*parts, Pads(tuple(lengths), torch.device("cpu")), 0.3)
    expected = written_out(*parts, lengths, 0.3)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    slope = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for got, want in zip(
        torch.autograd.grad(ours, parts, slope), torch.autograd.grad(expected, parts, slope), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_where_the_kernel_is_missing_the_softmax_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.zeros(1, 1, 1)
    assert flash.is_available(q)
    assert not flash.is_available(q.to(torch.int32))
    monkeypatch.setattr(flash, "_flash", None)
    assert not flash.is_available(q)

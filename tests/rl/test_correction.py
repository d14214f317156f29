"""Importance weights for what another policy drew: by hand, against TRL's own lines, and what they correct."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.rl.correction import sampler_weights

from .trl_lines import trl_lines

# Ratios 1, 4, 1/4 of the first completion, 3 of the second; the product of the first's is 1.
PROXIMAL = torch.tensor([1.0, 4.0, 0.25, 3.0], dtype=torch.float64).log()
SAMPLER, LENGTHS = torch.zeros(4, dtype=torch.float64), torch.tensor([3, 0, 1])


@pytest.mark.parametrize(
    ("kind", "level", "floor", "expected"),
    [
        ("none", "token", None, [1, 1, 1, 1]),
        ("truncate", "token", None, [1, 2, 0.25, 2]),
        ("truncate", "token", 0.5, [1, 2, 0.5, 2]),
        ("mask", "token", None, [1, 0, 0, 0]),  # below 1 / 2 too
        ("mask", "token", 0.0, [1, 0, 0.25, 0]),
        ("truncate", "sequence", None, [1, 1, 1, 2]),
        ("mask", "sequence", None, [1, 1, 1, 0]),
    ],
)
def test_by_hand(kind: Any, level: Any, floor: float | None, expected: list[float]) -> None:
    out = sampler_weights(PROXIMAL, SAMPLER, LENGTHS, kind=kind, level=level, cap=2.0, floor=floor)
    assert out.weight_S.tolist() == pytest.approx(expected)
    assert out.raw_S.tolist() == pytest.approx([1, 4, 0.25, 3] if level == "token" else [1, 1, 1, 3])
    if kind != "none":
        assert out.corrected_S.tolist() == [w != r for w, r in zip(expected, out.raw_S.tolist(), strict=True)]


def test_lengths_are_checked_and_nothing_flows_back() -> None:
    with pytest.raises(ValueError, match="lengths sum to 3, expected the 4 tokens"):
        sampler_weights(PROXIMAL, SAMPLER, torch.tensor([3]), kind="mask")
    leaf = PROXIMAL.clone().requires_grad_()
    assert not sampler_weights(leaf, SAMPLER, LENGTHS, kind="truncate").weight_S.requires_grad
    nothing = torch.zeros(0)
    assert sampler_weights(nothing, nothing, torch.tensor([0]), kind="mask", level="sequence").weight_S.tolist() == []


def trl_weights(
    proximal: torch.Tensor, sampler: torch.Tensor, mask: torch.Tensor, mode: str, cap: float, floor: float | None
) -> torch.Tensor:
    from trl import GRPOTrainer

    names = {
        "self": SimpleNamespace(
            use_vllm=True,
            vllm_importance_sampling_correction=True,
            vllm_importance_sampling_mode=mode,
            vllm_importance_sampling_clip_max=cap,
            vllm_importance_sampling_clip_min=floor,
        ),
        "completion_mask": mask.long(),
        "tool_mask": None,
        "old_per_token_logps": proximal,
        "sampling_per_token_logps": sampler,
    }
    begin = "if self.use_vllm and self.vllm_importance_sampling_correction:\n                mask ="
    end = "# Compute the per-token log probabilities for the reference model"
    found = trl_lines(GRPOTrainer, begin, end, names, "vllm_importance_sampling_ratio")
    return found.expand_as(proximal)[mask]


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from(["truncate", "mask"]),
    st.sampled_from(["token", "sequence"]),
    st.sampled_from([(2.0, None), (3.0, 0.5), (1.2, 0.9)]),
    st.integers(0, 10**6),
)
def test_equal_to_trls(lengths: list[int], kind: Any, level: Any, bounds: Any, seed: int) -> None:
    torch.manual_seed(seed)
    counts, (cap, floor) = torch.tensor(lengths), bounds
    mask = torch.arange(max(lengths))[None] < counts[:, None]
    proximal, sampler = 0.4 * torch.randn(2, len(lengths), max(lengths), dtype=torch.float64)
    # Without a floor TRL's mask has none; ours is then 1 / cap, unless it is told 0.
    own = 0.0 if kind == "mask" and floor is None else floor
    ours = sampler_weights(proximal[mask], sampler[mask], counts, kind=kind, level=level, cap=cap, floor=own)
    theirs = trl_weights(proximal, sampler, mask, f"{level}_{kind}", cap, floor)
    torch.testing.assert_close(ours.weight_S, theirs, atol=1e-6, rtol=1e-6)


@given(st.integers(0, 10**6))
def test_what_another_policy_drew_counts_as_if_the_learner_had(seed: int) -> None:
    """Every token of a small vocabulary, enumerated: the mean under the sampler of weight times worth is the mean under
    the learner, as long as no weight meets a bound."""
    torch.manual_seed(seed)
    learner, sampler = torch.randn(2, 5, dtype=torch.float64).log_softmax(-1)
    worth = torch.randn(5, dtype=torch.float64)
    weights = sampler_weights(learner, sampler, torch.ones(5, dtype=torch.long), kind="truncate", cap=1e9).weight_S
    torch.testing.assert_close((sampler.exp() * weights * worth).sum(), (learner.exp() * worth).sum())

"""Shared-prefix scoring against the ordinary forward of every completion alone."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, VOCABULARY, WINDOW, plain_logits, plain_logprobs, tiny_model

from rlrp.dialogue.types import Message
from rlrp.errors import UserError
from rlrp.lm import scoring
from rlrp.lm.adapters import LoraSettings, add_lora
from rlrp.lm.scoring import TokenGroup, micro_batches, token_logprobs
from rlrp.lm.shared_prefix import shares_prefix

tokens = st.integers(0, VOCABULARY - 1)


def ids(most: int, least: int = 0) -> Any:
    return st.lists(tokens, min_size=least, max_size=most).map(tuple)


# Prompts reach beyond the sliding window, completions may be empty or a single token, and G may be 1.
group = st.builds(TokenGroup, ids(3 * WINDOW, 1), st.lists(ids(2 * WINDOW), min_size=1, max_size=4).map(tuple))
groups = st.lists(group, min_size=1, max_size=3)

MIXED = [
    TokenGroup((1, 9, 200, 31, 4, 77, 8, 90, 10), ((5, 6, 7, 8, 9, 10, 11), (), (44,), (3, 2, 1, 3, 2, 1, 9, 9))),
    TokenGroup((250,), ((12, 13, 14), (15, 16))),
    TokenGroup((7, 7, 7), ((1, 2, 3, 4, 5, 6, 7, 8, 9),)),
]


@cache
def pair(architecture: str) -> tuple[Any, Any]:
    return tiny_model(architecture), tiny_model(architecture, shared=False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=15)
@given(groups=groups, temperature=st.sampled_from([1.0, 0.7, 1.6]))
def test_equals_the_plain_forward_of_each_completion_alone(
    architecture: str, groups: list[TokenGroup], temperature: float
) -> None:
    shared, plain = pair(architecture)
    with torch.no_grad():
        expected = plain_logprobs(plain, groups, temperature)
        got = token_logprobs(shared, groups, temperature=temperature).logp
        unshared = token_logprobs(plain, groups, temperature=temperature).logp
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(unshared, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_of_all_parameters_equal_those_of_the_plain_forward(architecture: str) -> None:
    shared, plain = pair(architecture)
    weight = torch.linspace(-1, 1, sum(g.scored_tokens for g in MIXED))  # so that errors cannot cancel
    unshared = copy.deepcopy(plain)
    for model in (shared, unshared):
        model.zero_grad()
        plain.zero_grad()
        (plain_logprobs(plain, MIXED, 0.9) * weight).sum().backward()
        (token_logprobs(model, MIXED, temperature=0.9).logp * weight).sum().backward()
        compare_gradients(model, plain)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_of_lora_equal_those_of_the_plain_forward(architecture: str) -> None:
    shared, plain = (add_lora(copy.deepcopy(model), LoraSettings(r=4, alpha=8), seed=3) for model in pair(architecture))
    for model in (shared, plain):
        generator = torch.Generator().manual_seed(5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    weight = torch.linspace(-1, 1, sum(g.scored_tokens for g in MIXED))
    (plain_logprobs(plain, MIXED, 0.8) * weight).sum().backward()
    (token_logprobs(shared, MIXED, temperature=0.8).logp * weight).sum().backward()
    compare_gradients(shared, plain)


def compare_gradients(model: Any, oracle: Any) -> None:
    compared = 0
    for (name, parameter), (_, expected) in zip(model.named_parameters(), oracle.named_parameters(), strict=True):
        if expected.grad is not None and expected.grad.norm() > 0:
            gap = (parameter.grad - expected.grad).norm() / expected.grad.norm()
            assert gap < 1e-4, (name, float(gap))
            compared += 1
    assert compared > 8


@pytest.mark.parametrize("architecture", ["Qwen2", "Gemma3"])
def test_chunks_of_the_vocabulary_change_nothing(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, _ = pair(architecture)
    frozen = copy.deepcopy(shared).requires_grad_(False)
    with torch.no_grad():
        whole = token_logprobs(shared, MIXED, entropy=True)
        monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * VOCABULARY * 3)  # three rows at a time
        monkeypatch.setattr(scoring, "CHUNK_ROWS", {"cpu": 1})
        for model, entropy in ((shared, True), (shared, False), (frozen, False)):
            parts = token_logprobs(model, MIXED, entropy=entropy)
            torch.testing.assert_close(parts.logp, whole.logp, atol=1e-5, rtol=0)
            if entropy:
                torch.testing.assert_close(parts.entropy, whole.entropy, atol=1e-5, rtol=0)


def test_entropy_is_that_of_the_whole_distribution_at_the_temperature() -> None:
    shared, plain = pair("Gemma3")
    with torch.no_grad():
        got = token_logprobs(shared, MIXED, temperature=0.5, entropy=True).entropy
        expected = [
            torch.distributions.Categorical(logits=plain_logits(plain, g.prompt, c) / 0.5).entropy()
            for g in MIXED
            for c in g.completions
            if c
        ]
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-4, rtol=0)


def test_nothing_to_score() -> None:
    shared, _ = pair("Llama")
    assert token_logprobs(shared, [TokenGroup((1, 2), ((), ()))]).logp.shape == (0,)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma3"])
def test_without_a_layout_the_model_runs_as_ever(architecture: str) -> None:
    """A padded batch through the switched model: what evaluation and generate() see."""
    shared, plain = pair(architecture)
    batch = torch.tensor([[0, 0, 0, 5, 6, 7, 8, 9, 10, 11], list(range(20, 30))])
    mask = torch.ones_like(batch)
    mask[0, :3] = 0
    with torch.no_grad():
        got, expected = (m(input_ids=batch, attention_mask=mask).logits for m in (shared, plain))
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=0)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        token_logprobs(pair("Llama")[0], [TokenGroup((), ((1,),))])


def test_a_head_with_an_adapter_gets_its_gradient() -> None:
    """The frozen-head shortcut must not swallow the head's own LoRA."""
    model = add_lora(tiny_model("Qwen2"), LoraSettings(r=2, alpha=2, targets=("lm_head",)), seed=0)
    token_logprobs(model, MIXED).logp.sum().backward()
    assert any(p.grad is not None and p.grad.norm() > 0 for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize(
    ("architecture", "config"), [("Granite", {"logits_scaling": 4.0}), ("Cohere", {"logit_scale": 0.25})]
)
def test_logits_that_are_not_the_projections_are_refused(architecture: str, config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="otherwise than by its output projection") as caught:
        tiny_model(architecture, **config)
    assert "\n" not in str(caught.value)


CANNOT_SHARE = {
    "StableLm": "layout",  # does not hand our layout on to its attention
    "Falcon": "attention interface",
    "RecurrentGemma": "layers of",
}


@pytest.mark.parametrize("architecture", CANNOT_SHARE)
def test_an_architecture_that_cannot_share_takes_the_plain_path_with_one_warning(
    architecture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(architecture)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and f"{architecture}ForCausalLM cannot share prompts" in warnings[0]
    assert not shares_prefix(model)
    with torch.no_grad():
        got = token_logprobs(model, MIXED, temperature=0.8).logp
        assert token_logprobs(model, [TokenGroup((1, 2), ((), ()))]).logp.shape == (0,)
    torch.testing.assert_close(got, plain_logprobs(model, MIXED, 0.8).detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("prompt", "completions", "shared"),
    [(10, (5, 5), 1.5), (2, (9, 9, 9), 33 / 29), (40, (8,), 1.0), (6, (0, 0), 1.0), (6, (4, 0, 4), 20 / 14)],
)
def test_what_sharing_saves(prompt: int, completions: tuple[int, ...], shared: float) -> None:
    group = TokenGroup((1,) * prompt, tuple((2,) * n for n in completions))
    # An empty completion needs no copy of the prompt.
    assert group.token_ratio == pytest.approx(shared if any(completions) else 0.0)


def test_a_group_that_saves_little_is_laid_out_as_whole_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[tuple[int, ...]] = []
    real = scoring.pack
    monkeypatch.setattr(scoring, "pack", lambda p, s: laid.append(tuple(map(len, p))) or real(p, s))
    little, much = TokenGroup((1, 2), ((3,) * 9, (4,) * 9)), TokenGroup((1,) * 20, ((3,) * 4, (4,) * 4))
    with torch.no_grad():
        token_logprobs(pair("Llama")[0], [little, much])
    assert laid == [(2 + 8, 2 + 8, 20)]


@settings(max_examples=200)
@given(
    groups=st.lists(
        st.builds(
            lambda p, cs: TokenGroup((1,) * p, tuple((2,) * c for c in cs)),
            st.integers(1, 30),
            st.lists(st.integers(0, 20), max_size=6),
        ),
        max_size=5,
    ),
    budget=st.integers(1, 80),
    share_prefix=st.booleans(),
)
def test_micro_batches_cover_every_completion_once_within_budget(
    groups: list[TokenGroup], budget: int, share_prefix: bool
) -> None:
    seen = []
    for pack, places in micro_batches(groups, budget, share_prefix=share_prefix):
        seen += places
        packed = [(part.prompt, completion) for part in pack for completion in part.completions]
        assert packed == [(groups[g].prompt, groups[g].completions[c]) for g, c in places]
        assert len(places) == 1 or sum(part.packed_tokens(share_prefix) for part in pack) <= budget
    assert seen == [(g, c) for g, group in enumerate(groups) for c in range(len(group.completions))]


def test_neighbouring_micro_batches_could_not_have_been_one() -> None:
    """No pack is closed early: with the next completion it would have been over the budget."""
    groups = [TokenGroup((1,) * 10, ((2,) * 5,) * 4), TokenGroup((1,) * 10, ((2,) * 5,) * 4)]
    # 10 + 4 * 5 = 30 fills the budget exactly; one more completion would not fit.
    assert [len(places) for _, places in micro_batches(groups, 30)] == [4, 4]
    # 10 + 5 * 5 + 10 > 35 > 10 + 4 * 5: the second prompt must wait; unshared, 15 a completion, two fit.
    assert [len(places) for _, places in micro_batches(groups, 35)] == [4, 4]
    assert [len(places) for _, places in micro_batches(groups, 35, share_prefix=False)] == [2, 2, 2, 2]


def test_a_group_that_fits_alone_is_not_cut_for_the_rest_of_another_pack() -> None:
    groups = [TokenGroup((1,) * 10, ((2,) * 5,) * 4), TokenGroup((1,) * 10, ((2,) * 5,) * 4)]
    assert [len(places) for _, places in micro_batches(groups, 59)] == [4, 4]
    assert [len(places) for _, places in micro_batches(groups, 60)] == [8]
    # Too large for any pack: cut, from a pack of its own on.
    assert [len(places) for _, places in micro_batches([groups[0], TokenGroup((1,) * 10, ((2,) * 5,) * 9)], 45)] == [
        4,
        7,
        2,
    ]


@pytest.mark.parametrize("budget", [1, 12, 25, 1000])
def test_log_probabilities_do_not_depend_on_the_token_budget(budget: int) -> None:
    shared, _ = pair("Mistral")
    with torch.no_grad():
        whole = token_logprobs(shared, MIXED).logp
        parts = [token_logprobs(shared, pack).logp for pack, _ in micro_batches(MIXED, budget)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_the_real_model_shares_its_prompt_exactly(smollm2: str) -> None:
    from rlrp.lm.load import load_model
    from rlrp.lm.self_check import use_shared_prefix

    lm = load_model(smollm2)
    prompt = lm.chat.encode_prompt([Message("system", "You are Ahab."), Message("user", "Shall we turn back?")])
    group = TokenGroup(prompt, (tuple(lm.tokenizer.encode("Aye, sail on!")), (5, 6, 7)))
    with torch.no_grad():
        expected = plain_logprobs(lm.model, [group])
        use_shared_prefix(lm.model)
        torch.testing.assert_close(token_logprobs(lm.model, [group]).logp, expected, atol=1e-4, rtol=0)

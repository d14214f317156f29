"""The shared prefix on real weights: SmolLM2-135M and, where it was fetched, Gemma 3 270M with its sliding windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from tiny_models import plain_logprobs

from rlrp.dialogue.types import Message
from rlrp.lm.adapters import LoraSettings, add_lora
from rlrp.lm.load import LanguageModel, load_model
from rlrp.lm.sampling import Sampler, SampleRequest, SamplingSettings
from rlrp.lm.scoring import TokenGroup, token_logprobs
from rlrp.lm.self_check import use_shared_prefix

CARD = (
    "You are Captain Ahab of the whaler Pequod. You lost a leg to the white whale and think of nothing else. You speak "
    "in long, dark sentences of the sea, and you never break the fourth wall."
)


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    found = load_model(request.getfixturevalue(request.param))
    assert use_shared_prefix(found.model)
    return found


def prompts(lm: LanguageModel) -> list[tuple[int, ...]]:
    said = ("Shall we turn back?", "The men are afraid, sir, and the oil is leaking. What do we do?")
    return [tuple(lm.chat.encode_prompt([Message("system", CARD), Message("user", text)])) for text in said]


def groups(lm: LanguageModel) -> list[TokenGroup]:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(lm.tokenizer.encode(text, add_special_tokens=False))

    first, second = prompts(lm)
    return [
        TokenGroup(first, (ids("Aye, sail on! The whale is near, and I will have him."), ids("No"), ())),
        TokenGroup(second, (ids("Let it leak."), ids("Up Burtons and break out? Have we now come so near to Japan?"))),
    ]


def plainly(lm: LanguageModel, groups: list[TokenGroup]) -> torch.Tensor:
    """The oracle: every [prompt; completion] alone through transformers' own attention."""
    name = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("sdpa")
    try:
        return plain_logprobs(lm.model, groups)
    finally:
        lm.model.set_attn_implementation(name)


def test_log_probabilities_are_those_of_the_plain_forward(lm: LanguageModel) -> None:
    with torch.no_grad():
        ours = token_logprobs(lm.model, groups(lm)).logp
        assert float((ours - plainly(lm, groups(lm))).abs().max()) < 1e-4


def gradients(model: Any, logp: torch.Tensor) -> torch.Tensor:
    """Of the mean log-probability, all parameters end to end."""
    model.zero_grad()
    logp.mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_adapter_gradients_are_those_of_the_plain_forward(lm: LanguageModel) -> None:
    model: Any = add_lora(lm.model, LoraSettings(r=4, targets=("q_proj", "v_proj")), seed=0)
    try:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
        ours = gradients(model, token_logprobs(model, groups(lm)).logp)
        plain = gradients(model, plainly(lm, groups(lm)))
        assert float((ours - plain).norm() / plain.norm()) < 1e-4
    finally:
        model.unload()


def test_greedy_completions_are_generates(lm: LanguageModel) -> None:
    settings = SamplingSettings(max_new_tokens=16, temperature=0.0, ignore_stop=True)
    drawn = Sampler(lm).sample([SampleRequest(prompt, (0,)) for prompt in prompts(lm)], settings)
    lm.model.set_attn_implementation("sdpa")
    try:
        for prompt, (completion,) in zip(prompts(lm), drawn, strict=True):
            row = torch.tensor([prompt])
            options = {"do_sample": False, "max_new_tokens": 16, "min_new_tokens": 16, "pad_token_id": 0}
            own = lm.model.generate(row, attention_mask=torch.ones_like(row), **options)[0, len(prompt) :]
            assert completion.ids == tuple(own.tolist())
    finally:
        assert use_shared_prefix(lm.model)


def test_sampler_and_learner_agree(lm: LanguageModel) -> None:
    settings = SamplingSettings(max_new_tokens=12, temperature=0.9)
    asked = [SampleRequest(prompt, tuple(range(4))) for prompt in prompts(lm)]
    drawn = Sampler(lm).sample(asked, settings)
    scored = [
        TokenGroup(request.prompt, tuple(c.ids for c in found)) for request, found in zip(asked, drawn, strict=True)
    ]
    with torch.no_grad():
        logp = token_logprobs(lm.model, scored, temperature=0.9).logp
    said = torch.tensor([x for found in drawn for c in found for x in c.logps])
    assert float((logp - said).abs().max()) < 1e-4


def test_first_tokens_come_as_often_as_the_model_says(lm: LanguageModel) -> None:
    prompt = prompts(lm)[0]
    drawn = Sampler(lm).sample(
        [SampleRequest(prompt, tuple(range(2000)))], SamplingSettings(max_new_tokens=1, max_rows=2000)
    )[0]
    with torch.no_grad():
        p = lm.model(torch.tensor([prompt])).logits[0, -1].softmax(-1).double()
    likely = p.topk(20).indices.tolist()
    counts = [sum(c.ids[0] == token for c in drawn) for token in likely]
    expected = (p[likely] * len(drawn)).tolist()
    keep = [i for i, e in enumerate(expected) if e >= 5]
    rest = len(drawn) - sum(counts[i] for i in keep), len(drawn) - sum(expected[i] for i in keep)
    found = stats.chisquare([*(counts[i] for i in keep), rest[0]], [*(expected[i] for i in keep), rest[1]])
    assert found.pvalue > 1e-4

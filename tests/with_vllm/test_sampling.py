"""vLLM's completions against the learner's and our own engine's view of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlrp.dialogue.types import Message
from rlrp.errors import UserError
from rlrp.lm.engines.ours import OurEngine
from rlrp.lm.engines.vllm import VllmEngine
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import SampleRequest, SamplingSettings

from .made import MEAN_GAP, MOST_GAP, assert_agree, drawn_state


@pytest.fixture
def same_weights(engine: VllmEngine, ours: OurEngine, policy: Any) -> None:
    state = drawn_state(policy, 20)
    assert engine.load(state) == ours.load(state)


@pytest.mark.usefixtures("same_weights")
@pytest.mark.parametrize("temperature", [0.5, 0.9, 1.3])
def test_log_probabilities_are_the_learners_at_the_sampling_temperature(
    engine: VllmEngine, policy: Any, requests: list[SampleRequest], temperature: float
) -> None:
    groups = engine.sample(requests, SamplingSettings(max_new_tokens=32, temperature=temperature))
    assert [len(group) for group in groups] == [len(request.seeds) for request in requests]
    assert_agree(policy, requests, groups, temperature)


@pytest.mark.usefixtures("same_weights")
def test_greedy_tokens_are_ours(engine: VllmEngine, ours: OurEngine, requests: list[SampleRequest]) -> None:
    """Same tokens, text, end and log-probabilities; at a near tie rounding may choose, but none is that near here."""
    settings = SamplingSettings(max_new_tokens=32, temperature=0.0)
    once = [SampleRequest(request.prompt, (0,)) for request in requests]
    for [theirs], [own] in zip(engine.sample(once, settings), ours.sample(once, settings), strict=True):
        assert (theirs.ids, theirs.text, theirs.finish) == (own.ids, own.text, own.finish)
        gap = (torch.tensor(theirs.logps) - torch.tensor(own.logps)).abs()
        assert gap.mean() < MEAN_GAP and gap.max() < MOST_GAP


def test_a_completion_depends_on_its_seed_alone(engine: VllmEngine, requests: list[SampleRequest]) -> None:
    settings = SamplingSettings(max_new_tokens=12, temperature=1.0)
    prompt = requests[0].prompt
    large = (1 << 64) - 1  # as large as the loop's seeds get
    [together] = engine.sample([SampleRequest(prompt, (1, 2, large, 1))], settings)
    assert together[0].ids == together[3].ids
    assert len({completion.ids for completion in together}) == 3
    for seed, expected in zip((large, 2), (together[2], together[1]), strict=True):
        [[alone]] = engine.sample([SampleRequest(prompt, (seed,))], settings)
        assert alone.ids == expected.ids


def test_a_reply_ends_with_the_stop_token_and_says_so(engine: VllmEngine, ours: OurEngine, policy: Any) -> None:
    """The model as it comes, which ends its answers; the adapter of the other tests rambles on."""
    state = drawn_state(policy, 0, std=0.0)
    engine.load(state), ours.load(state)
    chat = ours.sampler.lm.chat
    questions = ("What is the capital of France?", "Is snow white? Say yes or no.", "Say hello.")
    asked = [SampleRequest(chat.encode_prompt([Message("user", question)]), (1,)) for question in questions]
    answers = engine.sample(asked, SamplingSettings(max_new_tokens=48, temperature=0.0))
    assert [[c.ids for c in group] for group in answers] == [
        [c.ids for c in group] for group in ours.sample(asked, SamplingSettings(max_new_tokens=48, temperature=0.0))
    ]
    ended = [i for i, [completion] in enumerate(answers) if completion.finish == "stop"]
    assert ended
    on = engine.sample(asked, SamplingSettings(max_new_tokens=48, temperature=0.0, ignore_stop=True))
    for i in ended:
        [short], [long] = answers[i], on[i]
        assert short.ids[-1] in chat.stop_ids and len(short.ids) == len(short.logps)
        assert short.text == chat.decode_reply(short.ids)
        assert (long.finish, len(long.ids)) == ("length", 48)
        assert long.ids[: len(short.ids)] == short.ids


@pytest.mark.usefixtures("same_weights")
def test_a_stop_string_cuts_the_text_where_ours_does(
    engine: VllmEngine, ours: OurEngine, requests: list[SampleRequest]
) -> None:
    settings = SamplingSettings(max_new_tokens=32, temperature=0.0, stop_strings=(" the", ","))
    once = [SampleRequest(request.prompt, (0,)) for request in requests]
    for [theirs], [own] in zip(engine.sample(once, settings), ours.sample(once, settings), strict=True):
        assert (theirs.ids, theirs.text, theirs.finish) == (own.ids, own.text, own.finish)


def test_a_groups_prompt_is_computed_once(engine: VllmEngine, prompts: list[Prompt]) -> None:
    """All but the first of a group find the prompt's whole blocks in the cache, in the same call."""
    block = engine.llm.llm_engine.vllm_config.cache_config.block_size
    assert engine.llm.reset_prefix_cache()
    whole = len(prompts[0].ids) // block * block
    assert whole > 0
    row = {"prompt_token_ids": list(prompts[0].ids)}
    params = engine._params(1, SamplingSettings(max_new_tokens=1))
    outputs = engine.llm.generate([row] * 4, params, use_tqdm=False)
    assert [output.num_cached_tokens for output in outputs] == [0, whole, whole, whole]


def test_nothing_asked_for_is_nothing_done(engine: VllmEngine) -> None:
    assert engine.sample([], SamplingSettings()) == []
    assert engine.sample([SampleRequest((1, 2), ())], SamplingSettings()) == [[]]


def test_a_prompt_that_does_not_fit_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(UserError, match=r"rl\.vllm\.max_model_len: a prompt of 1000 tokens and a reply of 64"):
        engine.sample([SampleRequest((1,) * 1000, (1,))], SamplingSettings(max_new_tokens=64))

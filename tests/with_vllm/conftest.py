"""One vLLM with the real small model for all tests here: it takes half a minute to start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlrp.cards.files import read_cards
from rlrp.dialogue import resolve
from rlrp.dialogue.types import Message
from rlrp.lm.adapters import add_lora
from rlrp.lm.engines import make_engine
from rlrp.lm.engines.ours import OurEngine
from rlrp.lm.engines.settings import EngineSettings, VllmSettings
from rlrp.lm.load import load_model
from rlrp.lm.prompts import Prompt, make_prompt
from rlrp.lm.sampling import SampleRequest

from .made import LORA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)


@pytest.fixture(scope="session")
def engine(smollm2: str) -> Any:
    pytest.importorskip("vllm")
    vllm = VllmSettings(max_model_len=1024, options={"kv_cache_memory_bytes": 1 << 30})
    return make_engine(EngineSettings(smollm2, lora=LORA, engine="vllm", vllm=vllm))


@pytest.fixture(scope="session")
def ours(smollm2: str) -> OurEngine:
    return OurEngine(EngineSettings(smollm2, lora=LORA))


@pytest.fixture(scope="session")
def policy(smollm2: str) -> Any:
    """The model with an adapter on every linear layer, as the learner has it."""
    return add_lora(load_model(smollm2).model, LORA, seed=0).eval()


@pytest.fixture(scope="session")
def prompts(ours: OurEngine) -> list[Prompt]:
    """Card prompts of some hundred tokens, longer than a block of vLLM's cache."""
    said = ("Who are you?", "What did you do this morning?", "Tell me about your greatest fear.")
    cards = sorted(read_cards(resolve("builtin:cards/en")).items())[: len(said)]
    chat = ours.sampler.lm.chat
    pairs = zip(cards, said, strict=True)
    return [make_prompt(chat, slug, slug, card, (Message("user", text),)) for (slug, card), text in pairs]


@pytest.fixture(scope="session")
def requests(prompts: list[Prompt]) -> list[SampleRequest]:
    return [SampleRequest(prompt.ids, (10 * i + 1, 10 * i + 2)) for i, prompt in enumerate(prompts)]

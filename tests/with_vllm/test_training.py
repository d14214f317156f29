"""A GRPO step with the loop's own pieces: vLLM samples, the learner moves, vLLM takes the weights and agrees again."""

from __future__ import annotations

from typing import Any

import pytest

from rlrp.lm.engines.vllm import VllmEngine
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import SampleRequest, SamplingSettings
from rlrp.protocols import Judgement
from rlrp.rl.learner import Learner, LearnerSettings
from rlrp.runtime import workers
from rlrp.runtime.credit import CreditSettings, set_advantages
from rlrp.runtime.groups import Group
from rlrp.runtime.workers import RolloutSettings, RolloutWorker

from .made import LORA, TEMPERATURE, assert_agree, gaps

SETTINGS = SamplingSettings(max_new_tokens=24, temperature=TEMPERATURE)


@pytest.fixture
def worker(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> RolloutWorker:
    """A rollout worker around the engine that is there already."""
    monkeypatch.setattr(workers, "make_engine", lambda settings: engine)
    return RolloutWorker(RolloutSettings("as it is"))


def test_three_steps_train(worker: RolloutWorker, smollm2: str, prompts: list[Prompt]) -> None:
    """The reward is the share of short words: GRPO must raise it, and sampler and learner must agree all the way."""
    learner = Learner(
        LearnerSettings(
            smollm2, lora=LORA, learning_rate=1e-3, temperature=TEMPERATURE, max_new_tokens=24, kl_coef=0.01
        )
    )
    requests = [SampleRequest(p.ids, tuple(range(100 * i, 100 * i + 6))) for i, p in enumerate(prompts[:2])]
    rewards = []
    before = None
    for step in range(3):
        state, checksum = learner.weights()
        assert worker.load_adapter(state) == checksum
        drawn = worker.sample(requests, SETTINGS)
        assert_agree(learner.policy.model, requests, drawn)
        if before is not None:  # the update moved the policy by more than the two differ
            assert gaps(learner.policy.model, requests, before, TEMPERATURE).mean() > 1e-2
        before = drawn
        groups = [Group(prompt, completions) for prompt, completions in zip(prompts[:2], drawn, strict=True)]
        for group in groups:
            group.judgements = [Judgement(short_words(c.text), {}) for c in group.completions]
        set_advantages(groups, CreditSettings())
        report = learner.step([group.training() for group in groups])
        rewards.append(sum(j.total for group in groups for j in group.judgements) / 12)
        assert report.metrics["logp_gap"] < 1e-4, step
        assert report.metrics["grad_norm"] > 0
    assert rewards[2] > rewards[0], rewards


def short_words(text: str) -> float:
    words: list[Any] = text.split()
    return sum(len(word) <= 3 for word in words) / max(1, len(words))

"""Every algorithm from its settings to weights that samplers hold: sampled, judged, credited, learnt; no Ray."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from rlrp.algorithms import Name
from rlrp.cards import CharacterCard
from rlrp.config import Config
from rlrp.dialogue import Message
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import SampleRequest, SamplingSettings
from rlrp.protocols import Judgement
from rlrp.rl.learner import Learner
from rlrp.runtime.credit import set_advantages
from rlrp.runtime.groups import Group
from rlrp.runtime.workers import RolloutSettings, RolloutWorker
from rlrp.stages.rl import credit_settings, learner_settings
from rlrp.stages.sft import lora_settings

WEIGHTS = {"vowels": 1.0, "brief": 0.5}
CASES: list[Any] = [({"algorithm": name}, name) for name in get_args(Name)] + [
    ({"algorithm": "ppo", "group_size": 1, "epochs": 2, "minibatches": 2}, "ppo with groups of one"),
    ({"algorithm": "ppo", "kl": {"in": "loss"}, "critic": {"value_clip": None}}, "ppo with the KL in the loss"),
    ({"algorithm": "reinforce++", "group_size": 1}, "reinforce++ with groups of one"),
    ({"algorithm": "dapo", "overlong": {"buffer": 4}, "kl": {"coef": 0}}, "dapo with its overlong punishment"),
    ({"advantage_scale": "terms", "overlong": {"buffer": 4, "penalty": 0.5}}, "gdpo"),
    ({"advantage_scale": "character", "kl": {"in": "reward", "target": 0.01}}, "by character, the KL in the reward"),
    ({"kl": {"estimator": "full"}, "correction": {"kind": "truncate"}}, "the whole KL, corrected"),
    ({"correction": {"kind": "mask", "level": "sequence"}, "epochs": 2}, "several passes, corrected"),
]


PROMPTS = [
    Prompt(slug, slug, CharacterCard(name=slug.title()), (Message("user", "Hm?"),), ids)
    for slug, ids in (("ada", (1, 9, 200, 31, 77)), ("bo", (250, 4)))
]


def judged(prompt: Prompt, completions: Any) -> Group:
    group = Group(prompt, completions)
    for completion in completions:
        terms = {"vowels": float(sum(id % 5 == 0 for id in completion.ids)), "brief": 1 / (1 + len(completion.ids))}
        group.judgements.append(Judgement(sum(WEIGHTS[name] * value for name, value in terms.items()), {**terms}))
    return group


@pytest.mark.parametrize("section", [case for case, _ in CASES], ids=[name for _, name in CASES])
def test_from_settings_to_weights(section: dict[str, Any], tiny_folder: str) -> None:
    lora = {"r": 4, "alpha": 8}
    rl: dict[str, Any] = {"prompts": 2, "group_size": 4, "max_new_tokens": 8, "learning_rate": 0.01, "lora": lora}
    critic = {"critic": {"lora": lora, "warmup_steps": 1}} if section.get("algorithm") == "ppo" else {}
    merged = rl | critic | section
    if critic:
        merged["critic"] = critic["critic"] | section.get("critic", {})
    config = Config.model_validate({"rl": merged})
    learner = Learner(learner_settings(config, tiny_folder))
    worker = RolloutWorker(RolloutSettings(tiny_folder, lora=lora_settings(config.rl.lora)))
    sampling = SamplingSettings(max_new_tokens=8, temperature=config.rl.temperature)
    held = [learner.weights()[1]]
    for step in range(3):
        seeds = [tuple(range(100 * step + 10 * p, 100 * step + 10 * p + config.rl.group_size)) for p in range(2)]
        asked = [SampleRequest(prompt.ids, own) for prompt, own in zip(PROMPTS, seeds, strict=True)]
        groups = [judged(*both) for both in zip(PROMPTS, worker.sample(asked, sampling), strict=True)]
        set_advantages(groups, credit_settings(config, WEIGHTS))
        metrics = learner.step([group.training() for group in groups]).metrics
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["logp_gap"] < 1e-3  # the sampler holds what the learner sent it
        assert metrics["skipped_in_a_row"] == 0
        state, expected = learner.weights()
        assert state is not None and worker.load_adapter(state) == expected
        held.append(expected)
    # In the critic's warm-up the policy stays as it is; otherwise every step moves it.
    assert len(set(held)) == (3 if learner.critic else 4)
    assert ("kl" in metrics) == (config.rl.kl.coef > 0)
    assert ("explained_variance" in metrics) == (learner.critic is not None)
    assert ("corrected" in metrics) == (config.rl.correction.kind != "none")

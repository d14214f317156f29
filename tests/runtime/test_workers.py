"""The workers as plain classes, without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import VOCABULARY

from rlrp.cards import CharacterCard
from rlrp.dialogue.types import Message, Sample
from rlrp.lm.adapters import LoraSettings, adapter_state, add_lora, checksum
from rlrp.lm.load import load_model
from rlrp.lm.prompts import make_prompt
from rlrp.lm.sampling import SampleRequest, SamplingSettings
from rlrp.lm.scoring import TokenGroup, token_logprobs
from rlrp.lm.self_check import use_shared_prefix
from rlrp.protocols import Judgement
from rlrp.runtime.episodes import Episodes, EpisodeSettings
from rlrp.runtime.judges import RewardWorker
from rlrp.runtime.users import UserModel
from rlrp.runtime.workers import RolloutSettings, RolloutWorker

ROOT = Path(__file__).parents[2]
LORA = LoraSettings(r=2, alpha=6)
SAMPLING = SamplingSettings(max_new_tokens=6, temperature=0.9)
ASKED = (Message("user", "what time is it"),)


def test_a_worker_samples_from_the_weights_it_was_sent_last(tiny_folder: str) -> None:
    lm = load_model(tiny_folder)
    use_shared_prefix(lm.model)
    policy = add_lora(lm.model, LORA, seed=0)
    worker = RolloutWorker(RolloutSettings(tiny_folder, lora=LORA))
    requests = [SampleRequest((1, 2, 3), (5, 6))]
    texts = []
    for std in (0.0, 0.2, 0.4):
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=std)
        state = adapter_state(policy)
        assert worker.load_adapter(state) == checksum(state)
        (drawn,) = worker.sample(requests, SamplingSettings(max_new_tokens=6, temperature=0.9))
        with torch.no_grad():
            group = TokenGroup((1, 2, 3), tuple(c.ids for c in drawn))
            scored = token_logprobs(policy, [group], temperature=0.9).logp
        sampled = torch.tensor([x for c in drawn for x in c.logps])
        torch.testing.assert_close(sampled, scored, atol=1e-4, rtol=0)
        texts.append(tuple(c.ids for c in drawn))
    assert len(set(texts)) == 3


def test_what_a_worker_sampled_before_changes_no_bit_where_that_is_asked(tiny_folder: str) -> None:
    """Which of several actors meets which prompts is a matter of time, and strict mode promises the same bits."""
    card = tuple(i % VOCABULARY for i in range(7, 700, 11))
    earlier, asked = SampleRequest((*card, 3), (1, 2)), SampleRequest((*card, 5, 9, 14), (3, 4))
    drawn = []
    for repeatable, before in ((True, []), (True, [earlier]), (False, [earlier])):
        worker = RolloutWorker(RolloutSettings(tiny_folder, lora=LORA, repeatable=repeatable))
        worker.sample(before, SAMPLING)
        drawn.append(worker.sample([asked], SAMPLING))
    fresh, after, otherwise = drawn
    assert after == fresh
    assert otherwise != fresh, "what was met before changes no bit anyway: this test shows nothing"


@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_worker_plays_episodes_with_a_user_model_beside_the_policy(tiny_folder: str, share_prefix: bool) -> None:
    """Both are the same tiny model; new weights reach the policy alone."""
    personas = {"en": ("You are {{user}}.",), "zh": ("你是{{user}}。",)}
    user = UserModel(tiny_folder, personas, temperature=0.0, max_new_tokens=3)  # type: ignore[arg-type]
    settings = RolloutSettings(tiny_folder, lora=LORA, share_prefix=share_prefix, episodes=EpisodeSettings(2, user))
    worker = RolloutWorker(settings)
    assert isinstance(worker.sampler, Episodes)
    # Any token ends a reply, so that every episode goes on.
    worker.sampler.chat.stop_ids = frozenset(range(VOCABULARY))
    lm = load_model(tiny_folder)
    use_shared_prefix(lm.model)
    policy = add_lora(lm.model, LORA, seed=0)
    source = make_prompt(lm.chat, "p", "ada", CharacterCard(name="Ada", description="A clockmaker."), ASKED)
    said = []
    for std in (0.0, 0.4):
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=std)
        worker.load_adapter(adapter_state(policy))
        requests = [SampleRequest(source.ids, (5, 6), source)]
        (drawn,) = worker.sample(requests, SamplingSettings(max_new_tokens=6, temperature=0.9))
        with torch.no_grad():
            group = TokenGroup(source.ids, tuple(c.ids for c in drawn))
            scored = token_logprobs(policy, [group], temperature=0.9).logp
        spoken = torch.tensor([own for c in drawn for own in c.spoken or ()])
        torch.testing.assert_close(
            torch.tensor([x for c in drawn for x in c.logps])[spoken], scored[spoken], atol=1e-4, rtol=0
        )
        assert all(len(c.turns) == 2 and c.spoken_tokens == 2 for c in drawn)
        said.append(tuple(c.ids for c in drawn))
    assert said[0] != said[1]


def test_a_reward_actor_of_rules_alone_does_without_torch() -> None:
    """Each of many would take half a gigabyte and seconds to start."""
    program = """
import sys
from functools import partial
from reward.config import load_reward
from rlrp.runtime.judges import RewardWorker
RewardWorker(partial(load_reward, "experiments/rewards/rules.yaml"), 2)
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[-2] == "[]"


def test_a_reward_worker_builds_its_reward_itself() -> None:
    class Reward:
        def judge(self, groups: object) -> list[list[Judgement]]:
            return [[Judgement(1.0, {})]]

    samples: list[list[Sample]] = [[]]
    assert RewardWorker(Reward).judge(samples) == [[Judgement(1.0, {})]]

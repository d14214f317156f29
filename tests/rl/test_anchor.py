"""The anchor on general text against the plain forward written out."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny_models import plain_logits

from rlrp.lm.adapters import LoraSettings
from rlrp.lm.scoring import TokenGroup
from rlrp.rl.anchor import drawn, general_kl
from rlrp.rl.learner import Learner, LearnerSettings, TrainGroup

PAIRS = [TokenGroup((1, 9, 200), ((31, 77, 5),)), TokenGroup((8, 8), ((4, 250),))]


@pytest.fixture
def learner(tiny_folder: str) -> Learner:
    return Learner(LearnerSettings(model=tiny_folder, lora=LoraSettings(r=4, alpha=8), max_new_tokens=8))


def moved(learner: Learner) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in learner.policy.parameters.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


def test_a_policy_that_has_not_moved_is_at_its_anchor(learner: Learner) -> None:
    assert general_kl(learner.policy, PAIRS).abs().max() < 1e-6


def test_it_is_the_kl_of_the_whole_distributions_with_its_gradient(learner: Learner) -> None:
    moved(learner)
    plain = copy.deepcopy(learner.policy.model)
    plain.get_base_model().set_attn_implementation("eager")
    kl = general_kl(learner.policy, PAIRS)
    kl.sum().backward()

    rows = []
    for pair in PAIRS:
        now = plain_logits(plain, pair.prompt, pair.completions[0]).log_softmax(-1)
        with torch.no_grad(), plain.disable_adapter():
            before = plain_logits(plain, pair.prompt, pair.completions[0]).log_softmax(-1)
        rows.append(torch.nn.functional.kl_div(now, before, log_target=True, reduction="none").sum(-1))
    expected = torch.cat(rows)
    expected.sum().backward()
    assert kl.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    for name, parameter in learner.policy.parameters.items():
        assert torch.allclose(parameter.grad, wanted[name], atol=1e-5)


def test_the_learner_adds_it_to_its_step_and_logs_it(learner: Learner) -> None:
    """Advantages of 0 leave only the anchor: the step must bring the policy nearer to it."""
    idle = TrainGroup((1, 2, 3), ((4, 5),), ((-1.0, -1.0),), (0.0,))
    settings = replace(learner.settings, general=tuple(PAIRS), general_pairs=2, learning_rate=1e-3)
    learner.settings = learner.gradients.settings = settings
    moved(learner)
    learner.updates = 1
    before = general_kl(learner.policy, PAIRS).mean().item()
    metrics = learner.step([idle]).metrics
    assert metrics["general_kl"] == pytest.approx(before, rel=1e-4) and metrics["loss"] == pytest.approx(before)
    assert metrics["reply_tokens_total"] == 2
    assert float(general_kl(learner.policy, PAIRS).mean()) < before


def test_every_pair_comes_once_an_epoch_in_an_order_of_the_seed() -> None:
    pairs = [TokenGroup((n,), ((n,),)) for n in range(6)]
    seen = [pair.prompt[0] for step in range(3) for pair in drawn(pairs, 4, seed=1, step=step)]
    assert Counter(seen) == {n: 2 for n in range(6)}
    assert seen == [pair.prompt[0] for pair in drawn(pairs, 12, seed=1, step=0)]
    assert seen != [pair.prompt[0] for pair in drawn(pairs, 12, seed=2, step=0)]

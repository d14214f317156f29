"""Completions of which the policy said only a part: the rest is read, and nothing of it is trained on or counted."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, plain_logprobs

from rlrp.lm.adapters import LoraSettings
from rlrp.lm.scoring import TokenGroup
from rlrp.rl.batch import TrainGroup
from rlrp.rl.learner import Learner, LearnerSettings

from .test_learner import KINDS, gradients, random_adapter

TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def configured(tiny_folder: str) -> LearnerSettings:
    return LearnerSettings(
        model=tiny_folder,
        lora=LoraSettings(r=4, alpha=8),
        temperature=TEMPERATURE,
        max_new_tokens=16,
        kl_coef=0.7,
        max_grad_norm=1e9,
    )


def conversations(seed: int = 0) -> list[TrainGroup]:
    """Two groups; runs of tokens said and not said, and one completion that is all the policy's."""
    generator = torch.Generator().manual_seed(seed)
    masks = [("ssss----sss", "sss--ss--sss", "sssss"), ("ss-----s", "sssss---sss")]
    groups = []
    for g, rows in enumerate(masks):
        spoken = tuple(tuple(mark == "s" for mark in row) for row in rows)
        ids = tuple(tuple(torch.randint(0, VOCABULARY, (len(row),), generator=generator).tolist()) for row in rows)
        near = [(-5.5 + torch.randn(len(row), generator=generator)).tolist() for row in rows]
        logps = tuple(
            tuple(x if own else 0.0 for x, own in zip(*both, strict=True)) for both in zip(near, spoken, strict=True)
        )
        advantages = (1.0, -0.4, -0.6)[: len(rows)]
        groups.append(TrainGroup(tuple(range(3 + g, 12 + g)), ids, logps, advantages, spoken))
    return groups


@pytest.mark.parametrize(("surrogate", "of", "aggregate"), KINDS)
def test_the_gradient_is_that_of_the_objective_over_what_was_said(
    configured: LearnerSettings, surrogate: Any, of: Any, aggregate: Any
) -> None:
    """Each whole completion through the plain forward, its spoken tokens picked, the formula of the paper, autograd."""
    configured = replace(configured, surrogate=surrogate, ratio=of, aggregate=aggregate)
    learner = Learner(configured)
    random_adapter(learner)
    model = copy.deepcopy(learner.policy.model)
    model.get_base_model().set_attn_implementation("eager")
    groups = conversations()
    rows = [(group, c) for group in groups for c in range(len(group.completions))]
    said_in_all = sum(sum(group.spoken[c]) for group, c in rows)

    objective = torch.zeros(())
    for group, c in rows:
        tokens, said = [TokenGroup(group.prompt, (group.completions[c],))], torch.tensor(group.spoken[c])
        logp = plain_logprobs(model, tokens, TEMPERATURE)[said]
        with torch.no_grad(), model.disable_adapter():
            reference = plain_logprobs(model, tokens, TEMPERATURE)[said]
        apart = logp - torch.tensor(group.logps[c])[said]
        ratio = torch.exp({"token": apart, "sequence": apart.mean(), "trajectory": apart.sum()}[of])
        gain = torch.minimum(ratio * group.advantages[c], ratio.clamp(0.8, 1.2) * group.advantages[c])
        if surrogate == "cispo":
            gain = ratio.detach().clamp(0.8, 1.2) * group.advantages[c] * logp
        kl = torch.exp(apart) * (torch.exp(reference - logp) - (reference - logp) - 1)
        per_completion = {"grpo": len(logp), "dr_grpo": 16, "token": said_in_all / len(rows)}[aggregate]
        objective = objective + (-gain + 0.7 * kl).sum() / per_completion / len(rows)
    objective.backward()

    seen, report = gradients(learner, groups)
    assert report.metrics["loss"] == pytest.approx(float(objective.detach()), rel=1e-4, abs=1e-4)
    assert report.metrics["reply_tokens_total"] == said_in_all == 4 + 3 + 8 + 5 + 3 + 8
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (seen[name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name


@pytest.mark.parametrize(("budget", "share_prefix"), [(1, True), (30, True), (30, False)])
def test_the_split_changes_nothing(configured: LearnerSettings, budget: int, share_prefix: bool) -> None:
    groups, results = conversations(), []
    for split in (configured, replace(configured, token_budget=budget, share_prefix=share_prefix)):
        learner = Learner(split)
        random_adapter(learner)
        results.append(gradients(learner, groups))
    (whole, report), (parts, split_report) = results
    for name, gradient in whole.items():
        assert (parts[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert split_report.metrics == pytest.approx(report.metrics, rel=1e-4, abs=1e-5)


def test_what_the_policy_did_not_say_is_read_and_not_learnt(configured: LearnerSettings) -> None:
    def step(groups: list[TrainGroup]) -> tuple[dict[str, torch.Tensor], Any]:
        learner = Learner(configured)
        random_adapter(learner)
        return gradients(learner, groups)

    groups = conversations()
    given, report = step(groups)
    # Whatever log-probabilities stand at the user's tokens, no number changes by a bit.
    noisy = [replace(g, logps=tuple(tuple(x or -9.0 for x in row) for row in g.logps)) for g in groups]
    seen, other = step(noisy)
    assert all(torch.equal(seen[name], gradient) for name, gradient in given.items())
    assert other.metrics == report.metrics
    # Other words of the user's do change what is learnt of the replies after them.
    first = groups[0]
    ids = (tuple(7 if not own else t for t, own in zip(first.completions[0], first.spoken[0], strict=True)),)
    heard, _ = step([replace(first, completions=ids + first.completions[1:]), groups[1]])
    assert any(not torch.equal(heard[name], gradient) for name, gradient in given.items())


def test_a_mask_that_says_all_is_none_to_the_bit(configured: LearnerSettings) -> None:
    plain = [replace(group, spoken=()) for group in conversations()]
    full = [replace(g, spoken=tuple((True,) * len(c) for c in g.completions)) for g in plain]
    reports = [Learner(configured) for _ in range(2)]
    for learner in reports:
        random_adapter(learner)
    (a, one), (b, two) = gradients(reports[0], plain), gradients(reports[1], full)
    assert one.metrics == two.metrics
    assert all(torch.equal(a[name], b[name]) for name in a)

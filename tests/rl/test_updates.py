"""A step of the learner in several updates, corrected for its sampler, and with the KL where the settings put it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import plain_logits, plain_logprobs

from rlrp.lm.scoring import TokenGroup
from rlrp.rl.advantages import group_advantages
from rlrp.rl.batch import Batch
from rlrp.rl.correction import CorrectionSettings
from rlrp.rl.learner import Learner, LearnerSettings, TrainGroup
from rlrp.rl.order import minibatches

from .made import LORA, TEMPERATURE, captured, moved, sampled_by

GROUPS = [
    TrainGroup(
        (1, 9, 200, 31, 77, 12),
        ((4, 5, 6), (7, 8)),
        ((), ()),
        (1.0, -1.0),
        rewards=(((2, 1.0),), ((1, -0.5),)),
        character="ada",
    ),
    TrainGroup(
        (250, 4), ((3, 3, 3, 3), (8, 9)), ((), ()), (-0.5, 0.5), rewards=(((3, 2.0),), ((1, 0.5),)), character="bo"
    ),
    TrainGroup(
        (6, 6, 6), ((11,), (12, 13)), ((), ()), (2.0, -2.0), rewards=(((0, 0.0),), ((1, 3.0),)), character="ada"
    ),
]


@pytest.fixture(scope="module")
def settings(tiny_folder: str) -> LearnerSettings:
    return LearnerSettings(
        tiny_folder, lora=LORA, temperature=TEMPERATURE, max_new_tokens=8, learning_rate=1e-2, max_grad_norm=1e9
    )


def drawn_by_another(settings: LearnerSettings) -> list[TrainGroup]:
    return sampled_by(moved(Learner(settings), seed=5), GROUPS)


def logps(learner: Learner, groups: Sequence[TrainGroup]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """The policy's (with gradients, of a copy's plain forward) and the anchor's log-probabilities; lengths."""
    model = copy.deepcopy(learner.policy.model)
    model.get_base_model().set_attn_implementation("eager")
    tokens = [TokenGroup(g.prompt, g.completions) for g in groups]
    with torch.no_grad(), model.disable_adapter():
        reference = plain_logprobs(model, tokens, TEMPERATURE)
    return plain_logprobs(model, tokens, TEMPERATURE), reference, [len(c) for g in groups for c in g.completions]


def sampler(groups: Sequence[TrainGroup]) -> torch.Tensor:
    return torch.tensor([x for g in groups for row in g.logps for x in row])


# -- several updates -----------------------------------------------------------------------------------------------


def test_minibatches_go_over_every_group_once_a_pass() -> None:
    assert minibatches(3, 1, seed=0, step=0, epoch=0) == [[0, 1, 2]]
    seen = {}
    for epoch in range(3):
        parts = minibatches(7, 3, seed=1, step=4, epoch=epoch)
        assert sorted(len(part) for part in parts) == [2, 2, 3]
        assert sorted(member for part in parts for member in part) == list(range(7))
        assert parts == minibatches(7, 3, seed=1, step=4, epoch=epoch)
        seen[epoch] = str(parts)
    assert len(set(seen.values())) == 3
    assert [len(part) for part in minibatches(1, 3, seed=0, step=0, epoch=0)] == [1]


def test_later_updates_are_against_the_samplers_log_probabilities(settings: LearnerSettings) -> None:
    """A second pass is a second step on the same groups, but for what counts steps."""
    groups = sampled_by(Learner(settings), GROUPS)
    twice, once = (
        Learner(replace(settings, epochs=2, kl_coef=0.1, kl_target=0.01)),
        Learner(replace(settings, kl_coef=0.1)),
    )
    report = twice.step(groups)
    first, second = once.step(groups).metrics, once.step(groups).metrics
    assert twice.weights()[1] == once.weights()[1]
    assert (twice.steps, twice.updates, once.steps) == (1, 2, 2)
    assert second["ratio_max"] > 1.01
    assert report.metrics["ratio_max"] == second["ratio_max"]
    assert report.metrics["loss"] == pytest.approx((first["loss"] + second["loss"]) / 2)
    assert report.metrics["grad_norm"] == pytest.approx((first["grad_norm"] + second["grad_norm"]) / 2)
    # Sampler and learner are compared, the KL is measured and tokens are counted once.
    assert report.metrics["logp_gap"] == first["logp_gap"] < 1e-4 < second["logp_gap"]
    assert report.metrics["kl"] == first["kl"] < second["kl"]
    assert report.metrics["reply_tokens_total"] == 14


def test_each_minibatch_is_an_update_of_its_own_groups(settings: LearnerSettings) -> None:
    groups = sampled_by(Learner(settings), GROUPS)
    parts, whole = Learner(replace(settings, minibatches=3, kl_coef=0.1)), Learner(replace(settings, kl_coef=0.1))
    order = [member for part in minibatches(3, 3, seed=0, step=0, epoch=0) for member in part]
    report = parts.step(groups)
    for member in order:
        alone = whole.step([groups[member]])
        assert report.kl[member] == pytest.approx(alone.kl[0], abs=1e-6)
    assert parts.weights()[1] == whole.weights()[1]
    assert parts.updates == 3


def test_three_losses_in_a_row_may_be_of_one_step(settings: LearnerSettings) -> None:
    from rlrp.rl.learner import TrainingDiverged

    groups = [replace(g, advantages=(float("nan"), 0.0)) for g in sampled_by(Learner(settings), GROUPS)]
    with pytest.raises(TrainingDiverged, match="three losses in a row"):
        Learner(replace(settings, minibatches=3)).step(groups)


# -- who said what -------------------------------------------------------------------------------------------------


def test_only_what_the_policy_said_is_trained_on(settings: LearnerSettings) -> None:
    """The loss written out over the spoken tokens alone; the others are read and their log-probabilities ignored."""
    learner = moved(Learner(replace(settings, kl_coef=0.3, kl_estimator="k2")))
    spoken = ((True, False, True), (True, True))
    groups = drawn_by_another(settings)
    groups[0] = replace(
        groups[0],
        spoken=spoken,
        logps=tuple(
            tuple(x if s else 99.0 for x, s in zip(row, said, strict=True))
            for row, said in zip(groups[0].logps, spoken, strict=True)
        ),
    )
    logp, reference, _ = logps(learner, groups)
    said = torch.tensor([True, False, True] + [True] * 11)
    weight = torch.tensor([1 / 2] * 4 + [1 / 4] * 4 + [1 / 2] * 2 + [1.0] + [1 / 2] * 2) / 6
    advantage = torch.tensor([1.0] * 2 + [-1.0] * 2 + [-0.5] * 4 + [0.5] * 2 + [2.0] + [-2.0] * 2)
    ratio = torch.exp(logp[said] - sampler(groups)[said])
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    expected = ((-surrogate + 0.3 * 0.5 * (reference - logp)[said].square()) * weight).sum()
    report = learner.step(groups)
    assert report.metrics["loss"] == pytest.approx(float(expected.detach()), abs=1e-5)
    assert report.metrics["reply_tokens_total"] == 13
    assert report.metrics["logp_gap_max"] < 50


def test_payments_move_to_what_the_policy_said() -> None:
    group = TrainGroup(
        (1,),
        ((4, 5, 6, 7), (8, 9)),
        ((0.0,) * 4, (0.0, 0.0)),
        (0.0, 0.0),
        spoken=((True, False, False, True), (False, True)),
        rewards=(((0, 1.0), (2, 2.0), (3, 4.0)), ((0, 8.0),)),
    )
    batch = Batch([group])
    assert batch.lengths.tolist() == [2, 1]
    assert batch.rewards() == [((0, 1.0), (0, 2.0), (1, 4.0)), ((0, 8.0),)]
    with pytest.raises(ValueError, match="rewards for 0 completions, expected 2"):
        Batch([replace(group, rewards=())]).rewards()


# -- the KL's places -----------------------------------------------------------------------------------------------


def test_the_whole_kl_is_in_the_loss(settings: LearnerSettings) -> None:
    learner = moved(Learner(replace(settings, kl_coef=0.7, kl_estimator="full", aggregate="token")))
    groups = drawn_by_another(settings)
    model = copy.deepcopy(learner.policy.model)
    model.get_base_model().set_attn_implementation("eager")
    rows = [(g, c) for g in groups for c in range(2)]
    kls, gains = [], []
    for group, c in rows:
        completion, old = group.completions[c], torch.tensor(group.logps[c])
        now = (plain_logits(model, group.prompt, completion) / TEMPERATURE).log_softmax(-1)
        with torch.no_grad(), model.disable_adapter():
            before = (plain_logits(model, group.prompt, completion) / TEMPERATURE).log_softmax(-1)
        kls.append((now.exp() * (now - before)).sum(-1))
        ratio = torch.exp(now.gather(1, torch.tensor(completion)[:, None])[:, 0] - old)
        gains.append(torch.minimum(ratio * group.advantages[c], ratio.clamp(0.8, 1.2) * group.advantages[c]))
    objective = -torch.cat(gains).mean() + 0.7 * torch.cat(kls).mean()
    objective.backward()
    seen = captured(learner)
    report = learner.step(groups)
    assert report.metrics["loss"] == pytest.approx(float(objective.detach()), abs=1e-4)
    assert report.metrics["kl"] == pytest.approx(float(torch.cat(kls).mean().detach()), rel=1e-3)
    assert [x for row in report.kl for x in row] == pytest.approx([float(k.detach().mean()) for k in kls], rel=1e-3)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (seen[name] - parameter.grad).norm() <= 1e-3 * parameter.grad.norm(), name


@pytest.mark.parametrize(
    ("baseline", "scale", "ratio"),
    [("leave_one_out", "none", "trajectory"), ("group", "group", "token"), ("group", "character", "sequence")],
)
def test_in_the_reward_it_is_summed_per_completion(
    settings: LearnerSettings, baseline: Any, scale: Any, ratio: Any
) -> None:
    """Equal to a step without it on advantages of the penalised rewards."""
    made: dict[str, Any] = {"baseline": baseline, "advantage_scale": scale, "ratio": ratio}
    learner = moved(Learner(replace(settings, kl_place="reward", kl_coef=0.2, **made)))
    groups = drawn_by_another(settings)
    _, reference, lengths = logps(learner, groups)
    penalty = torch.stack([part.sum() for part in (sampler(groups) - reference).split(lengths)])
    rewards = torch.tensor([[paid[0][1] for paid in g.rewards] for g in groups], dtype=torch.float64)
    penalised = rewards - 0.2 * penalty.view(3, 2)
    expected = group_advantages(penalised, baseline=baseline, scale=scale, characters=["ada", "bo", "ada"]).tolist()
    plain = moved(Learner(replace(settings, ratio=ratio)))
    by_hand = [replace(g, advantages=tuple(row)) for g, row in zip(groups, expected, strict=True)]
    report, other = learner.step(groups), plain.step(by_hand)
    assert report.metrics["loss"] == pytest.approx(other.metrics["loss"], abs=1e-4)
    assert report.metrics["grad_norm"] == pytest.approx(other.metrics["grad_norm"], rel=1e-2)
    assert report.metrics["kl"] > 1e-3
    for ours, row in zip(report.advantages, expected, strict=True):
        assert ours == pytest.approx(row, abs=1e-3)
    assert other.advantages == []


def test_reinforce_plus_plus_has_it_at_tokens(settings: LearnerSettings) -> None:
    choices: dict[str, Any] = {"baseline": "none", "advantage_scale": "whiten", "kl_place": "reward", "kl_coef": 0.2}
    learner = moved(Learner(replace(settings, **choices)))
    groups = [replace(g, completions=g.completions[:1], rewards=g.rewards[:1], advantages=(0.0,)) for g in GROUPS]
    groups = sampled_by(moved(Learner(settings), seed=5), groups)  # groups of one
    logp, reference, lengths = logps(learner, groups)
    to_go = []
    for group, k1 in zip(groups, (sampler(groups) - reference).split(lengths), strict=True):
        to_go += [group.rewards[0][0][1] - 0.2 * float(k1[t:].sum()) for t in range(len(k1))]
    advantage = torch.tensor(to_go)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-4)
    ratio = torch.exp(logp - sampler(groups))
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    expected = -sum(part.mean() for part in surrogate.split(lengths)) / 3
    assert learner.step(groups).metrics["loss"] == pytest.approx(float(expected.detach()), abs=1e-5)


# -- samplers that are stale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_corrected_the_first_update_is_weighted_reinforce(settings: LearnerSettings, kind: Any, level: Any) -> None:
    """Ratios against the learner itself are 1, nothing is clipped; each token's gradient is weighed by how much
    likelier the learner makes it than the sampler did."""
    how = CorrectionSettings(kind, level, cap=1.3, floor=0.7)
    learner = moved(Learner(replace(settings, correction=how, aggregate="token")))
    groups = drawn_by_another(settings)
    logp, _, lengths = logps(learner, groups)
    apart = (logp.detach() - sampler(groups)).split(lengths)
    raw = torch.cat([(part if level == "token" else part.sum().expand(len(part))).exp() for part in apart])
    kept = raw.clamp(0.7, 1.3) if kind == "truncate" else torch.where((raw >= 0.7) & (raw <= 1.3), raw, 0.0)
    assert 0 < int((kept != raw).sum()) < 14
    advantage = torch.tensor([a for g in groups for a in g.advantages]).repeat_interleave(torch.tensor(lengths))
    report = learner.step(groups)
    assert report.metrics["loss"] == pytest.approx(-float((kept * advantage).mean()), abs=1e-4)
    assert (report.metrics["ratio_min"], report.metrics["ratio_max"]) == (1, 1)
    names = ("sampler_ratio", "sampler_ratio_min", "sampler_ratio_max")
    assert [report.metrics[n] for n in names] == pytest.approx(
        [float(x) for x in (raw.mean(), raw.min(), raw.max())], rel=1e-3
    )
    assert report.metrics["corrected"] == pytest.approx(float((kept != raw).float().mean()))
    assert report.metrics["logp_gap"] > 1e-3  # still against the sampler


def test_corrected_later_updates_are_against_the_policy_at_the_start_of_the_step(settings: LearnerSettings) -> None:
    """Two passes: the first is the one update of the same correction; the second's ratios are against what the policy
    was before it, which one without correction calls the sampler."""
    how = CorrectionSettings("truncate", "token", cap=1.1)
    groups = drawn_by_another(settings)
    twice = moved(Learner(replace(settings, correction=how, epochs=2)))
    once, plain = moved(Learner(replace(settings, correction=how))), moved(Learner(settings))
    own = sampled_by(plain, groups)
    one = once.step(groups).metrics
    both = twice.step(groups).metrics
    assert both["sampler_ratio"] == pytest.approx(one["sampler_ratio"], abs=1e-5)
    assert both["corrected"] == one["corrected"]
    once.gradients.settings = settings
    second = once.step(own).metrics  # the same weights as the two passes had after the first
    assert both["ratio_max"] == pytest.approx(second["ratio_max"], abs=1e-3)
    assert both["ratio"] == pytest.approx((1 + second["ratio"]) / 2, abs=1e-4)


def test_rounding_alone_is_hardly_corrected(settings: LearnerSettings) -> None:
    how = CorrectionSettings("mask")
    groups = sampled_by(Learner(settings), GROUPS)
    plain, masked = Learner(settings), Learner(replace(settings, correction=how))
    ours, theirs = masked.step(groups).metrics, plain.step(groups).metrics
    assert ours["corrected"] == 0
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)

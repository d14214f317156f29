"""The learner on a tiny model: its gradient against plain autograd, its guards, its checkpoints."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import plain_logprobs, save_tiny

from rlrp.lm.adapters import LoraSettings, adapter_state, checksum
from rlrp.lm.load import load_model
from rlrp.lm.sampling import SampleRequest, SamplingSettings
from rlrp.lm.scoring import TokenGroup
from rlrp.rl.learner import Learner, LearnerSettings, TrainGroup, TrainingDiverged
from rlrp.runtime.workers import RolloutSettings, RolloutWorker

LORA = LoraSettings(r=4, alpha=8)
TEMPERATURE = 0.8
PROMPTS = [(1, 9, 200, 31, 77), (250, 4)]
ADVANTAGES = [(1.0, -0.5, -0.5), (0.3, -1.3, 1.0)]


@pytest.fixture(scope="module")
def settings(tiny_folder: str) -> LearnerSettings:
    return LearnerSettings(
        model=tiny_folder, lora=LORA, temperature=TEMPERATURE, max_new_tokens=8, learning_rate=1e-2, kl_coef=0.1
    )


@pytest.fixture(scope="module")
def drawn(tiny_folder: str) -> list[TrainGroup]:
    """On-policy groups from a rollout worker that holds the fresh policy."""
    worker = RolloutWorker(RolloutSettings(tiny_folder, lora=LORA))
    requests = [SampleRequest(prompt, (3 * i, 3 * i + 1, 3 * i + 2)) for i, prompt in enumerate(PROMPTS)]
    completions = worker.sample(requests, SamplingSettings(max_new_tokens=8, temperature=TEMPERATURE))
    return [
        TrainGroup(prompt, tuple(c.ids for c in group), tuple(c.logps for c in group), advantages)
        for prompt, group, advantages in zip(PROMPTS, completions, ADVANTAGES, strict=True)
    ]


def random_adapter(learner: Learner, seed: int = 0) -> None:
    """A policy that has moved away from its anchor, past the first step's check."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in learner.policy.parameters.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    learner.updates = 1


def gradients(learner: Learner, groups: Sequence[TrainGroup]) -> tuple[dict[str, torch.Tensor], Any]:
    """What a step hands to the optimizer (clipping set far away), and the step's report."""
    seen: dict[str, torch.Tensor] = {}

    def capture() -> None:
        seen.update({n: p.grad.clone() for n, p in learner.policy.parameters.items() if p.grad is not None})

    learner.engine.optimizer.step = capture  # type: ignore[method-assign,assignment]
    report = learner.step(groups)
    return seen, report


def test_the_first_step_is_on_policy_and_at_its_anchor(settings: LearnerSettings, drawn: list[TrainGroup]) -> None:
    learner = Learner(settings)
    before = checksum(adapter_state(learner.policy.model))
    report = learner.step(drawn)
    m = report.metrics
    assert m["kl"] == pytest.approx(0, abs=1e-6)
    assert (m["ratio"], m["ratio_min"], m["ratio_max"]) == pytest.approx((1, 1, 1), abs=1e-4)
    assert m["logp_gap_max"] < 1e-4
    assert m["clip_fraction"] == 0
    assert m["grad_norm"] > 0
    # All ratios 1: the loss is minus the mean advantage of each group's completions, (0 + 0) / 6, and no KL.
    assert m["loss"] == pytest.approx(0, abs=1e-5)
    assert m["reply_tokens_total"] == sum(len(c) for g in drawn for c in g.completions)
    assert [len(row) for row in report.kl] == [3, 3]
    assert learner.weights()[1] == checksum(learner.weights()[0]) != before


def test_gradients_are_made_by_operations_that_repeat_their_bits(
    settings: LearnerSettings, drawn: list[TrainGroup]
) -> None:
    """A demo once left its own tracks in step 6: the backward of a gather added in the order of its threads."""
    learner, seen = Learner(settings), []
    parameter = next(iter(learner.policy.parameters.values()))
    parameter.register_hook(lambda _: seen.append(torch.are_deterministic_algorithms_enabled()))
    learner.step(drawn)
    assert seen and all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_two_steps_raise_what_was_rewarded(settings: LearnerSettings, drawn: list[TrainGroup]) -> None:
    learner = Learner(replace(settings, kl_coef=0.0))
    learner.step(drawn)
    second = learner.step(drawn).metrics
    assert second["loss"] < -0.01  # the surrogate of the same batch has fallen
    assert second["ratio_max"] > 1.01
    assert "kl" not in second
    assert second["kl_coef"] == 0


KINDS: list[Any] = [
    ("clip", "token", "grpo"),
    ("clip", "token", "dr_grpo"),
    ("clip", "token", "token"),
    ("clip", "sequence", "grpo"),
    ("clip", "trajectory", "grpo"),
    ("cispo", "token", "token"),
]


@pytest.mark.parametrize(("surrogate", "of", "aggregate"), KINDS)
def test_the_gradient_is_that_of_the_objective_written_out(
    settings: LearnerSettings, drawn: list[TrainGroup], surrogate: Any, of: Any, aggregate: Any
) -> None:
    """Every completion alone through PEFT's plain forward, the formula of the paper, autograd."""
    settings = replace(settings, surrogate=surrogate, ratio=of, aggregate=aggregate)
    learner = Learner(replace(settings, max_grad_norm=1e9, kl_coef=0.7))
    random_adapter(learner)
    model = copy.deepcopy(learner.policy.model)
    model.get_base_model().set_attn_implementation("eager")

    objective, rows = torch.zeros(()), [(g, c) for g in drawn for c in range(3)]
    tokens_in_all = sum(len(g.completions[c]) for g, c in rows)
    for group, c in rows:
        tokens = [TokenGroup(group.prompt, (group.completions[c],))]
        logp = plain_logprobs(model, tokens, TEMPERATURE)
        with torch.no_grad(), model.disable_adapter():
            reference = plain_logprobs(model, tokens, TEMPERATURE)
        apart = logp - torch.tensor(group.logps[c])
        ratio = torch.exp({"token": apart, "sequence": apart.mean(), "trajectory": apart.sum()}[of])
        gain = torch.minimum(ratio * group.advantages[c], ratio.clamp(0.8, 1.2) * group.advantages[c])
        if surrogate == "cispo":
            gain = ratio.detach().clamp(0.8, 1.2) * group.advantages[c] * logp
        kl = torch.exp(apart) * (torch.exp(reference - logp) - (reference - logp) - 1)
        per_completion = {"grpo": len(logp), "dr_grpo": settings.max_new_tokens, "token": tokens_in_all / len(rows)}
        objective = objective + (-gain + 0.7 * kl).sum() / per_completion[aggregate] / len(rows)
    objective.backward()

    seen, report = gradients(learner, drawn)
    assert report.metrics["loss"] == pytest.approx(float(objective), abs=1e-4)
    assert report.metrics["kl"] > 1e-3
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (seen[name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name


@pytest.mark.parametrize(
    ("budget", "share_prefix", "kind"),
    [(budget, share, KINDS[0]) for budget in (1, 20, 35) for share in (True, False)]
    + [(20, True, kind) for kind in KINDS[1:]],
)
def test_neither_gradient_nor_report_depend_on_the_split(
    settings: LearnerSettings, drawn: list[TrainGroup], budget: int, share_prefix: bool, kind: Any
) -> None:
    settings = replace(settings, surrogate=kind[0], ratio=kind[1], aggregate=kind[2])
    # An empty completion and a group of one are in the batch, too.
    groups = [
        *drawn,
        TrainGroup((5, 5), ((), (8, 9)), ((), (-3.0, -4.0)), (0.5, -0.5)),
        TrainGroup((6,), ((7,),), ((-5.0,),), (1.0,)),
    ]
    results = []
    for split in (settings, replace(settings, token_budget=budget, share_prefix=share_prefix)):
        learner = Learner(split)
        random_adapter(learner)
        results.append(gradients(learner, groups))
    (whole, report), (parts, split_report) = results
    for name, gradient in whole.items():
        assert (parts[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert split_report.metrics == pytest.approx(report.metrics, rel=1e-4, abs=1e-5)
    assert [x for row in split_report.kl for x in row] == pytest.approx([x for row in report.kl for x in row], abs=1e-5)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma3"])
def test_training_without_sharing_is_the_same_training(architecture: str, tmp_path: Path) -> None:
    """Three steps of sampling and learning with ``lm.share_prefix`` on and off: the same replies, the same weights."""
    folder = save_tiny(tmp_path, architecture)
    sampling = SamplingSettings(max_new_tokens=8, temperature=TEMPERATURE)
    said, weights = [], []
    for share in (True, False):
        learner = Learner(
            LearnerSettings(
                folder, lora=LORA, temperature=TEMPERATURE, learning_rate=1e-2, kl_coef=0.1, share_prefix=share
            )
        )
        worker = RolloutWorker(RolloutSettings(folder, lora=LORA, share_prefix=share))
        assert learner.policy.share_prefix is share
        for step in range(3):
            requests = [
                SampleRequest(p, tuple(range(9 * step + 3 * i, 9 * step + 3 * i + 3))) for i, p in enumerate(PROMPTS)
            ]
            drawn = worker.sample(requests, sampling)
            said.append([[c.ids for c in group] for group in drawn])
            learner.step(
                [
                    TrainGroup(p, tuple(c.ids for c in group), tuple(c.logps for c in group), advantages)
                    for p, group, advantages in zip(PROMPTS, drawn, ADVANTAGES, strict=True)
                ]
            )
            state, expected = learner.weights()
            assert worker.load_adapter(state) == expected
        weights.append(state)
    assert said[:3] == said[3:]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-4, rtol=0)


def test_warmup_and_clipping(settings: LearnerSettings, drawn: list[TrainGroup]) -> None:
    learner = Learner(replace(settings, warmup_steps=4, max_grad_norm=1e-3))
    rates = [learner.step(drawn).metrics["learning_rate"] for _ in range(5)]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    captured, report = gradients(learner, drawn)
    assert report.metrics["grad_norm"] > 1e-3  # as it was before clipping
    assert torch.stack([g.norm() for g in captured.values()]).norm() <= 1.001e-3


# -- guards --------------------------------------------------------------------------------------------------------


def shifted(groups: Sequence[TrainGroup], by: float) -> list[TrainGroup]:
    return [replace(g, logps=tuple(tuple(x + by for x in row) for row in g.logps)) for g in groups]


def test_a_sampler_that_disagrees_is_found_before_the_first_update(
    settings: LearnerSettings, drawn: list[TrainGroup]
) -> None:
    learner = Learner(settings)
    before = checksum(adapter_state(learner.policy.model))
    with pytest.raises(TrainingDiverged, match=r"sampler and learner disagree.*0\.01 nats"):
        learner.step(shifted(drawn, 0.01))
    assert checksum(adapter_state(learner.policy.model)) == before
    Learner(settings).step(shifted(drawn, 1e-4))  # rounding is no disagreement


def test_another_temperature_is_a_disagreement(settings: LearnerSettings, drawn: list[TrainGroup]) -> None:
    with pytest.raises(TrainingDiverged, match="disagree"):
        Learner(replace(settings, temperature=1.0)).step(drawn)


def test_a_policy_that_is_not_its_anchor_is_found_before_the_first_update(
    settings: LearnerSettings, drawn: list[TrainGroup]
) -> None:
    learner = Learner(settings)
    random_adapter(learner)
    learner.updates = 0
    worker = RolloutWorker(RolloutSettings(settings.model, lora=LORA))
    worker.load_adapter(learner.weights()[0])
    groups = []
    for group in drawn:
        (completions,) = worker.sample(
            [SampleRequest(group.prompt, (0, 1, 2))], SamplingSettings(max_new_tokens=8, temperature=TEMPERATURE)
        )
        groups.append(
            replace(group, completions=tuple(c.ids for c in completions), logps=tuple(c.logps for c in completions))
        )
    with pytest.raises(TrainingDiverged, match="KL to the anchor is not 0"):
        learner.step(groups)


def test_a_loss_that_is_not_finite_skips_the_step_and_three_in_a_row_stop(
    settings: LearnerSettings, drawn: list[TrainGroup]
) -> None:
    learner = Learner(replace(settings, kl_target=0.1))
    bad = [replace(g, advantages=(float("nan"), 0.0, 0.0)) for g in drawn]
    learner.step(drawn)
    before, coef = checksum(adapter_state(learner.policy.model)), learner.kl.coef
    for expected in (1, 2):
        assert learner.step(bad).metrics["skipped_in_a_row"] == expected
    assert checksum(adapter_state(learner.policy.model)) == before
    assert learner.step(drawn).metrics["skipped_in_a_row"] == 0  # a good one in between starts the count again
    assert checksum(adapter_state(learner.policy.model)) != before
    assert math.isfinite(learner.kl.coef) and learner.kl.coef != coef  # the KL itself was finite all along
    learner.step(bad)
    learner.step(bad)
    with pytest.raises(TrainingDiverged, match="three losses in a row"):
        learner.step(bad)


def test_weights_that_are_not_finite_leave_the_coefficient_alone(
    settings: LearnerSettings, drawn: list[TrainGroup]
) -> None:
    learner = Learner(replace(settings, kl_target=0.1))
    random_adapter(learner)
    next(iter(learner.policy.parameters.values())).data[:] = float("nan")
    report = learner.step(drawn)
    assert report.metrics["skipped_in_a_row"] == 1
    assert learner.kl.coef == settings.kl_coef


def test_an_empty_batch_stops(settings: LearnerSettings) -> None:
    with pytest.raises(TrainingDiverged, match="empty"):
        Learner(settings).step([TrainGroup((1,), ((), ()), ((), ()), (0.0, 0.0))])


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_goes_on_bit_by_bit(
    settings: LearnerSettings, drawn: list[TrainGroup], tmp_path: Path, dropout: float
) -> None:
    settings = replace(settings, kl_target=0.05, warmup_steps=3, lora=replace(LORA, dropout=dropout))
    learner = Learner(settings)
    for _ in range(2):
        learner.step(drawn)
    learner.save(tmp_path / "saved")
    expected = [(learner.step(drawn).metrics, learner.weights()[1]) for _ in range(2)]

    torch.manual_seed(12345)  # another process has another state
    resumed = Learner(settings)
    assert resumed.weights()[1] != expected[0][1]
    resumed.load(tmp_path / "saved")
    assert resumed.updates == 2
    assert resumed.kl.coef != settings.kl_coef
    assert [(resumed.step(drawn).metrics, resumed.weights()[1]) for _ in range(2)] == expected


def test_a_fresh_learner_can_be_saved_too(settings: LearnerSettings, tmp_path: Path) -> None:
    learner = Learner(settings)
    learner.save(tmp_path)
    other = Learner(replace(settings, seed=7))
    assert other.weights()[1] != learner.weights()[1]
    other.load(tmp_path)
    assert other.weights()[1] == learner.weights()[1]


def test_a_checkpoint_is_an_adapter_that_anyone_can_load(
    settings: LearnerSettings, drawn: list[TrainGroup], tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM

    learner = Learner(settings)
    learner.step(drawn)
    learner.save(tmp_path)
    group = [TokenGroup((1, 2, 3), ((4, 5), (6,)))]
    with torch.no_grad():
        expected = plain_logprobs(learner.policy.model.eval(), group)
        ours = plain_logprobs(load_model(str(tmp_path)).model, group)
        theirs = plain_logprobs(AutoPeftModelForCausalLM.from_pretrained(tmp_path), group)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=0)
    # Nothing in it needs pickle.
    assert {p.suffix for p in tmp_path.rglob("*")} <= {".safetensors", ".json", ".jinja", ".md"}
    assert json.loads((tmp_path / "learner.json").read_text(encoding="utf-8"))["updates"] == 1

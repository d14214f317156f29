"""Two workers under DeepSpeed against one in plain torch: the same weights, the same report, each other's checkpoints.

All cases of a test run in one pair of processes, one after the other: loading torch twice takes longer than they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import plain_logprobs

from rl.teams import on_team
from rlrp.lm.adapters import AdapterState, LoraSettings
from rlrp.lm.sampling import SampleRequest, SamplingSettings
from rlrp.lm.scoring import TokenGroup
from rlrp.rl.critic import CriticSettings
from rlrp.rl.learner import Learner, LearnerSettings, StepReport, TrainGroup
from rlrp.rl.team import Team
from rlrp.rl.zero import ZeroSettings
from rlrp.runtime.workers import RolloutSettings, RolloutWorker

pytest.importorskip("deepspeed", reason="needs rlrp[deepspeed]")

TEMPERATURE = 0.8
GENERAL = (TokenGroup((1, 2, 3), ((4, 5),)), TokenGroup((7, 8), ((9,),)), TokenGroup((7,), ((9, 8, 8),)))
CLOSE = 1e-5
"""Between weights after five steps; they move by up to 5 x the learning rate, 2.5e-3."""


@pytest.fixture(scope="module")
def plain(tiny_folder: str) -> LearnerSettings:
    return LearnerSettings(
        model=tiny_folder,
        lora=LoraSettings(r=4, alpha=8),
        temperature=TEMPERATURE,
        max_new_tokens=8,
        learning_rate=5e-4,
        warmup_steps=2,
        kl_coef=0.1,
        kl_target=0.01,
        token_budget=24,
        general=GENERAL,
        general_pairs=3,
    )


@pytest.fixture(scope="module")
def groups(tiny_folder: str) -> list[TrainGroup]:
    """On-policy groups of unequal size: one worker is done before the other, and is idle with it."""
    worker = RolloutWorker(RolloutSettings(tiny_folder))
    prompts = {(1, 9, 200, 31, 77): 3, (250, 4): 3, (50, 4, 7): 1, (8,): 4}
    requests = [SampleRequest(p, tuple(range(9 * i, 9 * i + n))) for i, (p, n) in enumerate(prompts.items())]
    completions = worker.sample(requests, SamplingSettings(max_new_tokens=8, temperature=TEMPERATURE))
    return [
        TrainGroup(
            request.prompt,
            tuple(c.ids for c in group),
            tuple(c.logps for c in group),
            tuple((-1.0) ** i * (1 + i / 3) for i in range(len(group))),
            rewards=tuple(((len(c.ids) - 1, 0.5 * i),) for i, c in enumerate(group)),
        )
        for request, group in zip(requests, completions, strict=True)
    ]


Result = tuple[AdapterState | None, list[StepReport]]


def trained(
    team: Team,
    settings: LearnerSettings,
    groups: Sequence[TrainGroup],
    steps: int,
    load: Path | None = None,
    save: Path | None = None,
) -> Result:
    learner = Learner(settings, team)
    if load is not None:
        learner.load(load)
    reports = [learner.step(groups) for _ in range(steps)]
    if save is not None:
        learner.save(save)
    return learner.weights()[0], reports


def all_trained(team: Team, cases: Sequence[tuple[Any, ...]]) -> list[Result]:
    return [trained(team, *case) for case in cases]


def skips(team: Team, settings: LearnerSettings, groups: Sequence[TrainGroup]) -> tuple[float, str, str, str]:
    """A step on advantages that are no numbers for one worker alone: how many were skipped, and what then is held."""
    learner = Learner(settings, team)
    learner.step(groups)
    before = learner.weights()[1]
    bad = [replace(groups[0], advantages=(float("nan"),) * len(groups[0].completions)), *groups[1:]]
    skipped = learner.step(bad).metrics["skipped_in_a_row"]
    after = learner.weights()[1]
    learner.step(groups)
    return skipped, before, after, learner.weights()[1]


def trained_and_skipping(team: Team, cases: Any, settings: LearnerSettings, groups: Any) -> tuple[list[Result], Any]:
    return all_trained(team, cases), skips(team, settings, groups)


def assert_same(ours: Result, expected: Result) -> None:
    weights, reports = ours
    assert weights is not None and expected[0] is not None and weights.keys() == expected[0].keys()
    for name, weight in expected[0].items():
        torch.testing.assert_close(weights[name], weight, atol=CLOSE, rtol=0)
    for report, same in zip(reports, expected[1], strict=True):
        assert report.metrics.keys() == same.metrics.keys()
        for name, value in same.metrics.items():
            # Rounding takes a token or two to the other side of a clip.
            close = 0.02 if name.endswith("clip_fraction") else 1e-4
            assert report.metrics[name] == pytest.approx(value, rel=1e-3, abs=close), name
        for row, expected_row in zip(report.kl, same.kl, strict=True):
            assert row == pytest.approx(expected_row, abs=1e-4)


def spread(settings: LearnerSettings, stage: int, **options: Any) -> LearnerSettings:
    return replace(settings, zero=ZeroSettings(stage, **options))


def test_two_workers_learn_what_one_learns_and_go_on_from_each_others_checkpoints(
    plain: LearnerSettings, groups: list[TrainGroup], tmp_path: Path
) -> None:
    """LoRA by ZeRO-2 and all weights by ZeRO-3, five steps; then two more after changing over in both directions."""
    full = replace(plain, lora=None)
    one, two = tmp_path / "one", tmp_path / "two"
    expected = [trained(Team(), plain, groups, 5, None, one), trained(Team(), full, groups, 5, None, one / "full")]
    later = [trained(Team(), plain, groups, 2, one), trained(Team(), full, groups, 2, one / "full")]
    cases = [
        (spread(plain, 2), groups, 5, None, two),
        (spread(full, 3), groups, 5, None, two / "full"),
        (spread(plain, 1), groups, 2, one),
        (spread(full, 3), groups, 2, one / "full"),
    ]
    (first, skipping), (second, also) = on_team(2, trained_and_skipping, cases, spread(plain, 2), groups)
    skipped, before, after, then = skipping
    assert skipped == also[0] == 1 and before == after != then  # no worker moves on what is no number for another
    for ours, theirs in zip(first, [*expected, *later], strict=True):
        assert_same(ours, theirs)
    assert all(weights is None for weights, _ in second)  # one worker sends for all
    assert [r.metrics for _, reports in second for r in reports] == [r.metrics for _, reports in first for r in reports]
    for settings, folder, theirs in ((plain, two, later[0]), (full, two / "full", later[1])):
        assert_same(trained(Team(), settings, groups, 2, folder), theirs)
    loads_elsewhere(two, first[0][0], two / "full", first[1][0])


def loads_elsewhere(adapter: Path, lora: AdapterState | None, full: Path, whole: AdapterState | None) -> None:
    """Vanilla PEFT and transformers read what two workers wrote, and find the weights that they sent."""
    from peft import AutoPeftModelForCausalLM, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    assert lora is not None and whole is not None
    peft_state = get_peft_model_state_dict(AutoPeftModelForCausalLM.from_pretrained(adapter))
    model = AutoModelForCausalLM.from_pretrained(full)
    for sent, found in ((lora, peft_state), (whole, dict(model.named_parameters()))):
        assert sent.keys() <= found.keys()
        assert all(torch.equal(found[name].detach(), weight) for name, weight in sent.items())
    assert plain_logprobs(model, [TokenGroup((1, 2), ((3, 4),))]).isfinite().all()
    files = [file for file in [*adapter.rglob("*"), *full.rglob("*")] if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".jinja", ".md"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_whatever_is_trained(plain: LearnerSettings, groups: list[TrainGroup], tmp_path: Path, stage: int) -> None:
    """LoRA and all weights; with checkpointed activations, a KL of the whole vocabulary, no shared prefix, a critic."""
    own = CriticSettings(model=plain.model, lora=LoraSettings(r=4, alpha=8), warmup_steps=1)
    shared = replace(own, model=None)
    variants = [
        plain,
        replace(plain, lora=None),
        replace(plain, lora=None, gradient_checkpointing=True, kl_estimator="full"),
        replace(plain, gradient_checkpointing=True, share_prefix=False),
        replace(plain, kl_place="reward", critic=own, epochs=2, minibatches=2),
        *([replace(plain, kl_place="reward", critic=shared, epochs=2, minibatches=2)] if stage < 3 else []),
        replace(plain, lora=None, critic=own),
    ]
    expected = [trained(Team(), settings, groups, 5) for settings in variants]
    ours, _ = on_team(2, all_trained, [(spread(s, stage), groups, 5) for s in variants], timeout_s=600)
    for mine, theirs in zip(ours, expected, strict=True):
        assert_same(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_and_offloading(plain: LearnerSettings, groups: list[TrainGroup], tmp_path: Path, stage: int) -> None:
    """In bfloat16 float32 copies are moved: steps of 1e-4, far below its spacing, add up as they do in one process, and
    over a checkpoint that the one process reads, too."""
    low = replace(plain, dtype="bfloat16", learning_rate=1e-4, kl_coef=0.0, general_pairs=0)
    variants = [(low, {}), (replace(low, lora=None), {}), (plain, {"offload_optimizer": True})]
    if stage == 3:
        variants.append((plain, {"offload_parameters": True}))
    expected = [trained(Team(), settings, groups, 5) for settings, _ in variants]
    folders = [tmp_path / str(i) for i in range(len(variants))]
    runs = [(spread(s, stage, **o), groups, 5, None, f) for (s, o), f in zip(variants, folders, strict=True)]
    resumed = [(settings, groups, 2, folder) for settings, _, _, _, folder in runs]
    ours, _ = on_team(2, all_trained, [*runs, *resumed], timeout_s=600)
    expected += [trained(Team(), s, groups, 2, folder) for (s, _), folder in zip(variants, folders, strict=True)]
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine[0] is not None and theirs[0] is not None
        for name, weight in theirs[0].items():
            torch.testing.assert_close(mine[0][name].float(), weight.float(), atol=2e-3, rtol=1e-2)

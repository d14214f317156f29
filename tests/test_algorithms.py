"""The table of algorithms: every name's choices, the defaults that settings take from it, and what must not move."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml

from rlrp.algorithms import ALGORITHMS, Name
from rlrp.config import Config, RlConfig, dump_config, load_config
from rlrp.errors import UserError
from rlrp.rl.advantages import group_advantages
from rlrp.rl.losses import LOSSES, grpo_loss, token_weights
from rlrp.stages.rl import credit_settings, learner_settings, loop_settings

NAMES: list[Any] = list(get_args(Name))


def test_every_name_has_its_row() -> None:
    assert list(ALGORITHMS) == NAMES
    assert {row.surrogate for row in ALGORITHMS.values()} == set(LOSSES)


def test_the_table_needs_no_torch() -> None:
    code = "import sys, rlrp.algorithms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "loss", "advantage", "clip"),
    [
        ("grpo", ("clip", "token", "grpo"), ("group", "group"), (0.2, 0.28)),
        ("dr_grpo", ("clip", "token", "dr_grpo"), ("group", "group"), (0.2, 0.28)),
        ("dapo", ("clip", "token", "token"), ("group", "group"), (0.2, 0.28)),
        ("gspo", ("clip", "sequence", "grpo"), ("group", "group"), (3e-4, 4e-4)),
        ("cispo", ("cispo", "token", "token"), ("group", "group"), (1.0, 4.0)),
        ("rloo", ("clip", "trajectory", "grpo"), ("leave_one_out", "none"), (0.2, 0.2)),
        ("reinforce++", ("clip", "token", "grpo"), ("none", "whiten"), (0.2, 0.2)),
        ("reinforce++-baseline", ("clip", "token", "grpo"), ("group", "whiten"), (0.2, 0.2)),
        ("ppo", ("clip", "token", "token"), ("none", "whiten"), (0.2, 0.2)),
    ],
)
def test_its_choices_reach_the_learner_and_the_loop(name: str, loss: Any, advantage: Any, clip: Any) -> None:
    config = Config.model_validate({"rl": {"algorithm": name}})
    learner, loop = learner_settings(config, "a model"), loop_settings(config, credit_settings(config, {}))
    assert (learner.surrogate, learner.ratio, learner.aggregate) == loss
    assert (loop.credit.baseline, loop.credit.scale) == advantage
    assert (learner.clip_low, learner.clip_high) == clip


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_says_comes_first_and_the_resolved_file_says_all(name: str, tmp_path: Path) -> None:
    config = Config.model_validate({"rl": {"algorithm": name, "clip_high": 0.5}})
    assert config.rl.clip_high == 0.5
    assert config.rl.clip_low == ALGORITHMS[config.rl.algorithm].clip[0]
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["rl"]["advantage_scale"] == config.rl.advantage_scale


def test_an_override_of_the_algorithm_brings_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rl: {steps: 3}\n", encoding="utf-8")
    assert load_config(path, ["rl.algorithm=rloo"]).rl.advantage_scale == "none"
    assert load_config(path, ["rl.algorithm=rloo", "rl.advantage_scale=whiten"]).rl.advantage_scale == "whiten"


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, expected in (
        ("rl:\n  algorithm: dpo\n", r"mine.yaml: line 2: rl.algorithm: got 'dpo': Input should be 'grpo', 'dr_grpo'"),
        ("rl:\n  algorithm: [grpo]\n", r"line 2: rl.algorithm: got \['grpo'\]"),
        ("rl: 3\n", r"line 1: rl: got 3"),
        (
            "rl:\n  algorithm: rloo\n  advantage_scale: group\n",
            r"rl.advantage_scale: got 'group', expected 'none' or 'whiten' for rloo",
        ),
        (
            "rl:\n  algorithm: reinforce++\n  advantage_scale: none\n",
            r"rl.advantage_scale: got 'none', expected 'whiten' for reinforce\+\+",
        ),
        ("rl:\n  advantage_scale: std\n", r"line 2: rl.advantage_scale: got 'std'"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=expected) as caught:
            load_config(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_place_for_its_kl_a_least_group_and_a_critic_or_none(name: Any) -> None:
    algorithm = ALGORITHMS[name]
    rl = Config.model_validate({"rl": {"algorithm": name, "kl": {"coef": 0.3}}}).rl
    in_reward = name in ("ppo", "rloo", "reinforce++")
    assert (rl.kl.place, rl.kl.coef) == ("reward" if in_reward else "loss", 0.3)
    other = "loss" if in_reward else "reward"
    assert Config.model_validate({"rl": {"algorithm": name, "kl": {"in": other}}}).rl.kl.place == other
    assert algorithm.critic == (name == "ppo")
    assert algorithm.least_group == (1 if name in ("ppo", "reinforce++") else 2)
    alone: dict[str, Any] = {"rl": {"algorithm": name, "group_size": 1}}
    if algorithm.least_group == 1:
        assert Config.model_validate(alone).rl.group_size == 1
    else:
        with pytest.raises(ValueError, match=r"rl.group_size: got 1, need >= 2 for .*ppo and reinforce\+\+ do with 1"):
            Config.model_validate(alone)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"critic": {"lam": 0.5}}, "rl.critic: grpo has no critic; rl.algorithm: ppo has one"),
        ({"algorithm": "ppo", "dynamic_sampling": {}}, "rl.dynamic_sampling: ppo has no baseline of the group"),
        ({"advantage_scale": "terms", "kl": {"in": "reward"}}, "rl.kl.in: a KL in the reward is no term"),
        ({"algorithm": "rloo", "kl": {"estimator": "full"}}, "rl.kl.estimator: got 'full'; in the reward the KL is k1"),
        ({"algorithm": "ppo", "advantage_scale": "terms"}, "expected 'whiten' or 'none' for ppo"),
        ({"prompts": 2, "minibatches": 3}, "rl.minibatches: got 3, at most the 2 of rl.prompts"),
        ({"overlong": {"buffer": 65}}, "rl.overlong.buffer: got 65, at most the 64 tokens of rl.max_new_tokens"),
        ({"kl": {"place": "reward", "inn": 1}}, "rl.kl.inn: unknown key 'inn'; did you mean 'in'?"),
        ({"kl": 3}, "rl.kl: got 3"),
    ],
)
def test_what_does_not_go_together_is_one_line(section: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"rl": section}), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dumped_critic_is_no_critic_that_someone_asked_for(tmp_path: Path) -> None:
    """The resolved file of any algorithm names every section, and loads again."""
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(Config()), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["rl"]["kl"]["in"] == "loss"
    assert load_config(path) == Config()


def test_the_first_two_have_the_defaults_they_always_had() -> None:
    for name in ("grpo", "dr_grpo"):
        rl = Config.model_validate({"rl": {"algorithm": name}}).rl
        assert (rl.clip_low, rl.clip_high, rl.advantage_scale) == (0.2, 0.28, "group")
    assert RlConfig() == RlConfig(algorithm="grpo")


@pytest.mark.parametrize(("name", "loss"), [("grpo", 0.13044366240501404), ("dr_grpo", 0.06896428018808365)])
def test_the_first_two_have_the_numbers_they_always_had(name: Any, loss: float) -> None:
    """Written out as it was before there were others: the same bits, and the value that it had then."""
    reward_PG = torch.tensor([[0.1, 0.7, 0.4], [2.0, 2.5, -1.0]], dtype=torch.float64)
    advantages = group_advantages(reward_PG, baseline=ALGORITHMS[name].baseline, scale="group")
    centred = reward_PG - reward_PG.mean(dim=1, keepdim=True)
    assert torch.equal(advantages, centred / (reward_PG.std(dim=1, keepdim=True) + 1e-4))

    lengths = torch.tensor([1, 4, 2, 3, 0, 5])
    generator = torch.Generator().manual_seed(7)
    leaf = (-2 * torch.rand(15, generator=generator)).requires_grad_()
    old = leaf.detach() + 0.3 * torch.randn(15, generator=generator)
    kl = torch.rand(15, generator=generator)
    advantage = advantages.flatten().float().repeat_interleave(lengths)
    weight = token_weights(lengths, ALGORITHMS[name].aggregate, max_tokens=6)
    out = grpo_loss(
        leaf,
        old,
        advantage,
        weight,
        clip_low=0.2,
        clip_high=0.28,
        kl_S=kl,
        kl_coef=0.05,
        ratio=ALGORITHMS[name].ratio,
        lengths=lengths,
    )
    (gradient,) = torch.autograd.grad(out.loss, leaf)

    was = torch.exp(leaf - old)
    surrogate = torch.minimum(was * advantage, was.clamp(1.0 - 0.2, 1.0 + 0.28) * advantage)
    value = ((-surrogate + 0.05 * kl) * weight).sum()
    assert torch.equal(out.loss, value)
    assert torch.equal(gradient, torch.autograd.grad(value, leaf)[0])
    assert float(out.loss.detach()) == pytest.approx(loss, rel=1e-6)

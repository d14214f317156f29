"""``rl.zero`` and ``rl.lora: null``: what is read, what reaches the learner, and what is refused on load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rlrp.config import load_config
from rlrp.errors import UserError
from rlrp.rl.learner import Learner, LearnerSettings
from rlrp.rl.team import Team
from rlrp.rl.zero import ZeroSettings, deepspeed_config
from rlrp.stages.rl import _rollout_settings, learner_settings, rl_fingerprint


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("rl:\n  zero: {stage: 2}\ncluster:\n  learner: {actors: 4}\n", encoding="utf-8")
    return path


def test_settings_reach_the_learner(mine: Path) -> None:
    config = load_config(
        mine, ["rl.zero.stage=3", "rl.zero.offload_parameters=true", "rl.lora=null", "rl.gradient_checkpointing=true"]
    )
    learner = learner_settings(config, "m")
    assert learner.zero == ZeroSettings(3, offload_parameters=True)
    assert (learner.lora, learner.gradient_checkpointing, learner.parts_weights) == (None, True, True)
    rollout = _rollout_settings(config, "m", None)
    assert (rollout.lora, rollout.scaling) == (None, 1.0)


def test_a_run_goes_on_with_other_workers_but_not_with_other_weights(mine: Path) -> None:
    same, other, alone, full = (
        rl_fingerprint(load_config(mine, overrides), "m", "r")
        for overrides in (
            [],
            ["rl.zero.stage=3", "cluster.learner.actors=8", "rl.gradient_checkpointing=true"],
            ["rl.zero=null", "cluster.learner.actors=1"],
            ["rl.lora=null"],
        )
    )
    assert same == other == alone != full


def test_options_lie_over_the_defaults() -> None:
    """Those that the learner needs stay: any number of micro-batches a step, clipping by its own norm."""
    options = {"zero_optimization": {"overlap_comm": False, "offload_optimizer": {"pin_memory": True}}, "a": 1}
    settings = ZeroSettings(3, offload_optimizer=True, options=options)
    config = deepspeed_config(settings, Team(0, 4), bfloat16=True)
    assert config["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "overlap_comm": False,
    }
    assert (config["a"], config["train_batch_size"], config["managed_gradient_accumulation"]) == (1, 4, False)
    assert config["bf16"]["enabled"] and config["data_types"]["grad_accum_dtype"] == "fp32"
    assert "bf16" not in deepspeed_config(settings, Team(), bfloat16=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rl.zero=null"], r"cluster.learner.actors: got 4 without rl.zero; .* set rl.zero.stage"),
        (["rl.zero.stage=4"], r"rl.zero.stage: got 4"),
        (["rl.zero.offload_parameters=true"], r"offload_parameters: got true with stage 2"),
        (["rl.zero.options.gradient_clipping=1"], r"gradient_clipping, which follows from rl.max_grad_norm"),
        (["rl.zero.options.zero_optimization.stage=1"], r"zero_optimization.stage, which follows from rl.zero.stage"),
        (["cluster.learner.max_actors=8"], r"cluster.learner.max_actors: a learner does not grow"),
        (["rl.algorithm=ppo", "rl.zero.stage=3"], r"rl.critic.model: got null with rl.zero.stage 3"),
        (["rl.algorithm=ppo", "rl.lora=null"], r"rl.critic.model: got null with rl.lora null"),
    ],
)
def test_what_does_not_go_together_is_refused_on_load(mine: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(mine, overrides)


def test_a_missing_deepspeed_is_told_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    settings = LearnerSettings(model="/no/such/model", zero=ZeroSettings(2))
    with pytest.raises(UserError, match=r"rl\.zero: needs DeepSpeed: pip install 'rlrp\[deepspeed\]'"):
        Learner(settings)

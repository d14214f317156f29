"""``rl.engine`` and ``rl.vllm``: what is read, and what is refused on load."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlrp.config import load_config
from rlrp.errors import UserError
from rlrp.stages.rl import _rollout_settings, rl_fingerprint


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("rl:\n  engine: vllm\n", encoding="utf-8")
    return path


def test_settings_reach_the_rollout_workers(mine: Path) -> None:
    overrides = ["rl.vllm.tensor_parallel=2", "cluster.rollout.gpus=2", "rl.vllm.options.max_num_seqs=64"]
    settings = _rollout_settings(load_config(mine, overrides), "m", None)
    assert (settings.engine, settings.device) == ("vllm", "cuda")
    assert (settings.vllm.tensor_parallel, settings.vllm.options) == (2, {"max_num_seqs": 64})
    assert _rollout_settings(load_config(mine, ["rl.engine=ours"]), "m", None).engine == "ours"


def test_a_run_goes_on_with_other_settings_of_vllm_but_not_with_another_engine(mine: Path) -> None:
    same, other, ours = (
        rl_fingerprint(load_config(mine, overrides), "m", "r")
        for overrides in ([], ["rl.vllm.gpu_memory_utilization=0.5"], ["rl.engine=ours"])
    )
    assert same == other != ours


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl.engine=vlm", r"rl.engine: got 'vlm'"),
        ("rl.vllm.gpu_memory=0.5", r"rl.vllm.gpu_memory: unknown key 'gpu_memory'; did you mean"),
        ("rl.vllm.options.dtype=half", r"rl.vllm.options: got dtype, which follows from rl.dtype; leave it out"),
        ("rl.vllm.options.logprobs_mode=raw_logprobs", r"got logprobs_mode, which follows from what the learner"),
        ("rl.temperature=0.005", r"rl.temperature: got 0.005, expected 0.01 to 2 with rl.engine: vllm"),
        ("rl.temperature=2.5", r"rl.temperature: got 2.5, expected 0.01 to 2"),
    ],
)
def test_what_does_not_go_together_is_refused(mine: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(mine, [override])


def test_an_engine_over_several_gpus_needs_as_many(mine: Path) -> None:
    parallel = "rl.vllm.tensor_parallel=4"
    with pytest.raises(UserError, match=r"rl\.vllm\.tensor_parallel: got 4 with cluster\.rollout\.gpus of 2"):
        load_config(mine, [parallel, "cluster.rollout.gpus=2"])
    load_config(mine, [parallel, "cluster.rollout.gpus=4"])
    load_config(mine, [parallel])  # the CPU build spreads over cores

"""Whole RL runs on conversations, tiny models on a simulated Ray: sampled, judged, learnt from, logged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from runtime.simulated import simulate
from safetensors.torch import load_file

from rlrp.cards import CharacterCard
from rlrp.config import Config, load_config
from rlrp.dialogue import Sample, UserPrompt
from rlrp.lm.chat import ChatFormat
from rlrp.protocols import Judgement
from rlrp.runtime import cluster
from rlrp.runtime.records import read_metrics
from rlrp.stages.rl import train_rl

SCRIPT = '{"text": "who are you", "then": ["really?"]}\n{"text": "rain again"}\n{"text": "nice boots"}\n'
CARDS = {name.lower(): CharacterCard(name=name, description="A clockmaker.") for name in ("Ada", "Bo")}
PROMPTS = [UserPrompt(f"u{i}", "", text) for i, text in enumerate(("who are you", "hello", "rain again"))]


class Short:
    """Likes short replies; sees to it that what it is told is a conversation that ends with the user."""

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        for sample in (sample for group in groups for sample in group):
            roles = [message.role for message in sample.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        return [[Judgement(-float(len(s.reply)), {"short": -float(len(s.reply))}) for s in group] for group in groups]


class Plain:
    """Totals as they are."""

    def combine(self, groups: Any, judgements: Any) -> Any:
        return judgements

    def weights(self) -> dict[str, float]:
        return {"short": 1.0}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None: ...


Run = Callable[..., Path]


@pytest.fixture
def run(tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    plain = ChatFormat.__init__

    def often_ends(self: ChatFormat, tokenizer: Any) -> None:
        """A random model seldom says the one token that ends a reply, so here many do."""
        plain(self, tokenizer)
        self.stop_ids = frozenset({self.turn_end_id, *range(150, 262)})

    monkeypatch.setattr(ChatFormat, "__init__", often_ends)
    monkeypatch.setattr(cluster, "connect", lambda **_: None)
    monkeypatch.setattr(cluster, "disconnect", lambda: None)
    script = tmp_path / "script.jsonl"
    script.write_text(SCRIPT, encoding="utf-8")
    users = {"script": f"{{script: {script}}}", "model": f"{{model: {tiny_folder}, max_new_tokens: 8}}"}

    def build(name: str, user: str = "script", judge: str = "every", **rl: Any) -> Path:
        simulate(monkeypatch)
        experiment = tmp_path / f"{name}.yaml"
        experiment.write_text("tracking: {to: []}\n", encoding="utf-8")
        settings = {
            "steps": 2,
            "prompts": 2,
            "group_size": 4,
            "max_new_tokens": 6,
            "temperature": 1.5,
            "episodes": f"{{turns: 3, judge: {judge}, user: {users[user]}}}",
        }
        actors = rl.pop("actors", 1)
        sets = [f"rl.{key}={value}" for key, value in {**settings, **rl}.items()]
        sets += [f"cluster.{pool}.threads=1" for pool in ("rollout", "reward", "learner")]
        config: Config = load_config(
            experiment, [*sets, f"cluster.rollout.actors={actors}", f"run_dir={tmp_path / name}"]
        )
        train_rl(
            config,
            model=tiny_folder,
            cards=CARDS,
            prompts=PROMPTS,
            build_reward=Short,
            totals=Plain(),
            reward_hash="short",
        )
        return tmp_path / name

    return build


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((folder / "samples").iterdir()) for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize(("user", "algorithm"), [("script", "grpo"), ("model", "ppo")])
def test_a_run_on_conversations(run: Run, user: str, algorithm: str) -> None:
    own = {"critic.warmup_steps": 0} if algorithm == "ppo" else {}
    folder = run("a", user, algorithm=algorithm, **own)
    metrics = read_metrics(folder / "metrics.jsonl")
    samples = rows(folder)
    assert len(samples) == 2 * 2 * 4
    turns = [len(row["turn_totals"]) for row in samples]
    assert max(turns) == 3 and len(set(turns)) > 1  # some go all the way, some end before
    for row in samples:
        messages = json.loads(row["messages"])
        replies = [m["content"] for m in messages if m["role"] == "assistant"] + [row["completion"]]
        assert row["turn_totals"] == [-float(len(reply)) for reply in replies]
        assert row["total"] == pytest.approx(sum(row["turn_totals"]) / len(replies))
        assert row["tokens"] <= 6 * len(replies)
    for step, line in enumerate(metrics):
        drawn = samples[8 * step : 8 * step + 8]
        assert line["turns"] == sum(turns[8 * step : 8 * step + 8]) / 8
        # What the learner counted is what the policy said.
        assert line["reply_tokens_total"] == sum(row["tokens"] for row in drawn)
        assert line["logp_gap_max"] < 1e-4
    learnt = load_file(folder / "checkpoints" / "last" / "adapter_model.safetensors")
    assert any(bool(torch.any(weight != 0)) for name, weight in learnt.items() if "lora_B" in name)


def test_the_number_of_rollout_actors_changes_nothing(run: Run) -> None:
    one, two = rows(run("one", "model")), rows(run("two", "model", actors=2))
    assert [(row["messages"], row["completion"], row["turn_totals"]) for row in one] == [
        (row["messages"], row["completion"], row["turn_totals"]) for row in two
    ]


def test_last_judges_one_reply_of_each_conversation(run: Run) -> None:
    samples = rows(run("a", judge="last"))
    for row in samples:
        assert row["turn_totals"] == [None] * (len(row["turn_totals"]) - 1) + [row["total"]]
        assert row["total"] == -float(len(row["completion"]))
    # The same conversations as where every reply is judged, in the first step, before anything was learnt of them.
    every = rows(run("b", judge="every"))
    assert [row["completion"] for row in samples[:8]] == [row["completion"] for row in every[:8]]

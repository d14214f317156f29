"""`rlrp reward inspect`: what a reward is made of, of any version, and no traceback for what is neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reward.config import reward_hash
from reward.people.model import Aspect, People, PeopleModel
from rlrp.cli import main

SHIPPED = Path(__file__).parents[2] / "experiments" / "rewards"
ESCAPES = "\x1b[31m\x07\x9b2J"


@pytest.fixture(autouse=True)
def wide_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def model_folder(folder: Path, config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_reward_is_shown_with_weights_gates_options_and_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "terms:\n"
        "  blacklist: {weight: 0.5, gate: {below: -0.4, cap: 0}}\n"
        "  length: {weight: 0, en: [4, 9], neutral: 0.25}\n",
        encoding="utf-8",
    )
    assert main(["reward", "inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}  version {reward_hash(path)}"
    found = {line.split()[0]: line for line in lines[2:]}
    assert " 0.5 " in found["blacklist"] and "below -0.4: at most 0" in found["blacklist"]
    assert "logged" in found["length"] and "en [4, 9]" in found["length"] and "else 0.25" in found["length"]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_reward_can_be_inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "inspect", str(path)]) == 0
    assert reward_hash(path) in capsys.readouterr().out


def test_a_folder_stands_for_the_reward_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reward.yaml").write_text("terms:\n  length: {weight: 1}\n", encoding="utf-8")
    assert main(["reward", "inspect", str(tmp_path)]) == 0
    assert "length" in capsys.readouterr().out


def test_what_is_known_of_a_model_is_shown_whatever_its_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "format": "rlrp-something-of-later",
        "version": 99,
        "languages": {"en": {"reader": "", "columns": list(range(20))}},
        "measured": {"en": {"auc": 0.87654321}},
        "training": {"characters": 3, "note": ESCAPES},
    }
    assert main(["reward", "inspect", str(model_folder(tmp_path / "m", config))]) == 0
    out = capsys.readouterr().out
    assert out.startswith("m  rlrp-something-of-later version 99\n")
    assert "auc 0.8765" in out and "columns (20)" in out and "characters 3" in out
    assert not set(out) & set("\x1b\x07\x9b")


def test_models_of_a_reward_are_shown_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from reward.people.columns import style_names

    width = len(style_names("en"))
    scale = np.stack([np.zeros(width), np.ones(width)]).astype(np.float32)
    aspect = Aspect(*(np.zeros(n, np.float32) for n in (width, 0, 0)), 0.0, 1.0, 0.0)
    model = PeopleModel("en", scale, np.zeros((2, 0), np.float32), {}, np.zeros(0, np.float32), {"overall": aspect})
    People({"en": model}, {"training": {"ratings": 321}}).save(tmp_path / "people")
    (tmp_path / "reward.yaml").write_text(
        "terms:\n  length: {weight: 1}\n  people.overall: {weight: 0, model: people}\n", encoding="utf-8"
    )
    assert main(["reward", "inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "people.overall  rlrp-people version" in out
    assert "ratings 321" in out


def test_names_of_terms_are_text_and_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text("terms:\n  'length.[/b] [red]': {weight: 1}\n", encoding="utf-8")
    assert main(["reward", "inspect", str(tmp_path / "r.yaml")]) == 0
    assert "length.[/b] [red]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "is no model directory (no config.json) and holds no reward.yaml"),
        ({"config.json": "[1]"}, "config.json: got list, expected an object"),
        ({"config.json": "{oops"}, "config.json: line 1: is not JSON"),
        ({"config.json": "\udcff"}, "config.json: is not UTF-8 text"),
        ({"reward.yaml": "terms: {blaklist: {weight: 1}}"}, "did you mean 'blacklist'?"),
        ({"reward.yaml": "terms: {people: {weight: 1, model: gone}}"}, "gone/config.json"),
    ],
)
def test_what_is_neither_reward_nor_model_is_one_line_and_exit_code_2(
    files: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["reward", "inspect", str(tmp_path)]) == 2
    got = capsys.readouterr()
    assert expected in got.err and got.err.count("\n") == 1
    assert not got.out


def test_a_path_that_is_not_there_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "inspect", str(tmp_path / "gone")]) == 2
    assert "no such file" in capsys.readouterr().err

"""A reward learnt from ratings: its settings, the whole way from a file to a reward.yaml, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_characters import sample
from made_ratings import bench_file, bench_row, lines, write_lines
from pydantic import ValidationError

from reward.config import load_reward, read_reward_config, reward_hash
from reward.people.model import People
from reward.people.settings import RatingsConfig, read_ratings_config
from reward.people.train import train_on_ratings
from rlrp.cli import main
from rlrp.errors import UserError

WRITTEN = {
    "README.md",
    "agreement.png",
    "calibration.png",
    "people",
    "reward.yaml",
    "roc.png",
    "validation.json",
}
SHIPPED = Path(__file__).parents[2] / "experiments" / "reward_characterbench.yaml"


def settings_file(folder: Path, text: str = "") -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"kind: ratings\n{text}", encoding="utf-8")
    return path


def two_dimensions() -> list[dict[str, Any]]:
    """The second dimension, of a name that is neither a file's nor a terminal's friend, wants the opposite."""
    found = lines(dimensions=["engagement", "wit/[/b] ü"])
    for at, row in enumerate(found):
        row["ratings"]["wit/[/b] ü"] = 6 - row["ratings"]["engagement"] + at % 2
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trained")
    data = write_lines(folder / "own.jsonl", two_dimensions())
    config = RatingsConfig(
        kind="ratings",
        run_dir=str(folder / "run"),
        data=str(data),
        languages=["en"],
        aim=["engagement"],
        weights={"length": 0.2, "dissonance": 0.0},
    )
    return folder / "run", train_on_ratings(config)


# -- settings ------------------------------------------------------------------------------------------------------


def test_the_shipped_file_is_read_and_has_no_data() -> None:
    config = read_ratings_config(SHIPPED)
    assert config is not None
    assert config.data is None
    assert config.aim == ["engagement", "human_likeness"]
    assert config.run == Path("runs/reward-characterbench")


@pytest.mark.parametrize("text", ["name: mine\n", "kind: other\n", "- a\n", "rl: [1, 2\n", ""])
def test_any_other_file_is_somebody_elses(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_ratings_config(path, ["data=x"]) is None


def test_overrides_are_yaml_and_data_is_a_path(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "readers: {en: a, zh: b}\n")
    overrides = ["data=a=[b", "seed=3", "aim=[wit]", "readers.zh=null", "weights.length=0.5", "accept_terms=true"]
    config = read_ratings_config(path, overrides)
    assert config is not None
    assert (config.data, config.seed, config.aim) == ("a=[b", 3, ["wit"])
    assert config.readers == {"en": "a", "zh": None}
    assert config.weights == {"length": 0.5}
    assert config.accept_terms


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("aims: [wit]\n", [], "aims: unknown key; there are kind, name, run_dir"),
        ("seed: -1\n", [], "seed: got -1"),
        ("name: a/b\n", [], "name: got 'a/b'"),
        ("languages: [de]\n", [], "languages.0: got 'de'"),
        ("aim: []\n", [], "aim: got []"),
        ("aim: wit\n", [], "aim: got 'wit'"),
        ("weights: {blaklist: 1}\n", [], "weights: got {'blaklist': 1}: only people and built-in terms that need no"),
        ("weights: {judge: 1}\n", [], "weights: got {'judge': 1}: only people and built-in terms that need no model"),
        ("weights: {people.wit: 1}\n", [], "only people and built-in terms"),
        ("weights: {people: .nan}\n", [], "weights.people: got nan"),
        ("1: 2\n", [], "1: got 1"),
        ("", ["seed"], "--set: got 'seed', expected KEY=VALUE"),
        ("", ["=3"], "--set: got '=3', expected KEY=VALUE"),
        ("", ["a.b.c=3"], "a: unknown key; there are kind, name"),
        ("", ["aim=[wit"], "--set aim: '[wit' is not a YAML value"),
        ("", ["aims=[wit]"], "aims: unknown key"),
        ("", ["reader.zh=x"], "reader: unknown key"),
        ("name: x\n", ["name.zh=x"], "--set name.zh: 'name' is not a section"),
        ("", ["weights.people=heavy"], "weights.people: got 'heavy'"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(text: str, overrides: list[str], expected: str, tmp_path: Path) -> None:
    path = settings_file(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_ratings_config(path, overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_made_in_code_are_checked_too() -> None:
    with pytest.raises(ValidationError, match="only people"):
        RatingsConfig(kind="ratings", weights={"in_character": 1.0})


# -- from a file to a reward ---------------------------------------------------------------------------------------


def test_everything_is_written(trained: tuple[Path, dict[str, Any]]) -> None:
    out, report = trained
    assert {path.name for path in out.iterdir()} == WRITTEN
    assert json.loads((out / "validation.json").read_text()) == json.loads(json.dumps(report))
    for name in ("roc.png", "calibration.png", "agreement.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text()
    assert "100 ratings of 50 replies of 10 characters, written by a, b." in card
    auc = report["languages"]["en"]["agreement"]["people"]["auc"]["engagement"]["value"]
    assert f"| people | {auc:.2f} (" in card


def test_the_report_says_what_the_term_must_beat(trained: tuple[Path, dict[str, Any]]) -> None:
    own = trained[1]["languages"]["en"]
    assert set(own["agreement"]) >= {"people", "style alone", "wording alone", "length", "dissonance"}
    assert set(own["agreement"]) >= {"people, unseen generators", "own term"}
    # Replies in role and faulty ones share no wording, and here no reply by one author is read twice.
    assert own["agreement"]["people"]["auc"]["engagement"]["value"] == 1.0
    assert own["agreement"]["own term"]["spearman"]["wit/[/b] ü"]["value"] > 0.5
    assert own["agreement"]["people"]["spearman"]["wit/[/b] ü"]["value"] < -0.5
    assert own["generators"] == ["a", "b"]
    assert trained[1]["data"]["ratings"] == 100


def test_the_reward_has_the_weights_asked_for_and_logs_every_dimension(trained: tuple[Path, dict[str, Any]]) -> None:
    terms = read_reward_config(trained[0] / "reward.yaml")
    assert {name: term.weight for name, term in terms.items()} == {
        "people": 1.0,
        "dissonance": 0.0,
        "blacklist": 0.1,
        "length": 0.2,
        "people.engagement": 0.0,
        "people.wit/[/b] ü": 0.0,
    }
    assert terms["people"].neutral == 0.5


def test_the_reward_loads_and_prefers_the_reply_in_role(trained: tuple[Path, dict[str, Any]]) -> None:
    composite = load_reward(trained[0] / "reward.yaml")
    group = [
        sample("en", "Ha! The orchard stays with me. You hear?", at=6),
        sample("en", "Certainly! I would be happy to help you with the orchard. Please let me know.", at=6),
    ]
    better, worse = composite.judge([group])[0]
    assert better.total > worse.total
    assert better.terms["people.engagement"] > worse.terms["people.engagement"]
    assert better.terms["people.wit/[/b] ü"] < worse.terms["people.wit/[/b] ü"]
    assert composite.score_one_by_one([sample("zh")])[0].terms["people"] is None


def test_the_reward_scores_explains_and_inspects_from_the_command(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = str(trained[0] / "reward.yaml")
    source = str(write_lines(tmp_path / "in.jsonl", lines()[:4]))
    for out in ("out.jsonl", "out.parquet"):
        assert main(["reward", "score", "--reward", reward, "--in", source, "--out", str(tmp_path / out)]) == 0
    rows = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(0 <= row["terms"]["people.engagement"] <= 1 for row in rows)
    assert main(["reward", "explain", "--reward", reward, "--in", source]) == 0
    assert "rate it well" in capsys.readouterr().out
    assert main(["reward", "inspect", str(trained[0])]) == 0
    assert "rlrp-people version" in capsys.readouterr().out


def test_the_model_knows_what_it_was_trained_on(trained: tuple[Path, dict[str, Any]]) -> None:
    people = People.load(trained[0] / "people")
    assert people.config["training"]["characters"] == 10
    assert people.config["measured"]["en"]["engagement"] == 1.0


def test_a_folder_of_the_bench_trains_a_reward(tmp_path: Path) -> None:
    rows = [
        bench_row(
            id=at,
            character_name=own["card"]["name"],
            character_profile=own["card"]["description"],
            messages={"response": own["messages"][0]["content"]},
            response_messages={"model": own["generator"], "response": own["reply"]},
            annotation_score=own["ratings"]["engagement"],
            dialogue=[],
            translation_en=None,
        )
        for at, own in enumerate(lines("zh"))
    ]
    bench_file(tmp_path / "bench" / "raw_data", "engagement", rows)
    config = RatingsConfig(
        kind="ratings", run_dir=str(tmp_path / "run"), data=str(tmp_path / "bench"), aim=["engagement"], seed=5
    )
    report = train_on_ratings(config)
    assert {path.name for path in (tmp_path / "run").iterdir()} == WRITTEN
    assert set(report["languages"]) == {"zh"}
    assert report["languages"]["zh"]["agreement"]["people"]["auc"]["engagement"]["value"] > 0.9
    # The rows' published judge gives everything 3.
    assert report["languages"]["zh"]["agreement"]["published"]["auc"]["engagement"]["value"] == 0.5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"data": None}, "data: give the folder of CharacterBench, or a .jsonl file"),
        ({"data": "gone"}, "no such file or folder"),
        ({"aim": ["charm"]}, "aim: no rating is of 'charm'; there are engagement"),
        ({"languages": ["zh"]}, "aim: no rating is of 'engagement'; there are no ratings"),
        ({"readers": {"en": "./nowhere"}}, "no such directory"),
    ],
)
def test_wrong_settings_leave_nothing_behind(options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "own.jsonl", lines())
    given = {"data": str(data), "languages": ["en"], "aim": ["engagement"], **options}
    with pytest.raises(UserError, match=expected):
        train_on_ratings(RatingsConfig(kind="ratings", run_dir=str(tmp_path / "run"), **given))
    assert not (tmp_path / "run").exists()


def test_too_few_ratings_leave_nothing_behind(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "own.jsonl", lines(size=5))
    config = RatingsConfig(kind="ratings", run_dir=str(tmp_path / "run"), data=str(data), aim=["engagement"])
    with pytest.raises(UserError, match="en: 25 ratings; at least 40 are needed"):
        train_on_ratings(config)
    assert not (tmp_path / "run").exists()


# -- one model, several terms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("people.x: {weight: 1, model: people, aspect: charm}", "terms.people.x.aspect: no aspect 'charm'; there are"),
        ("people.x: {weight: 1, model: people, aspcet: wit}", "terms.people.x.aspcet: unknown key 'aspcet'; did you"),
        ("people.x: {weight: 1}", "terms.people.x.model: missing"),
        ("peopel.x: {weight: 1, model: people}", "unknown term 'peopel.x'"),
        ("people: {weight: 1, model: gone}", "gone: no such directory"),
        ("judge.x: {weight: 1, model: people}", "the judge is never optimised"),
        ("length.x: {weight: 1, en: [9, 4]}", "terms.length.x.en: got [9, 4]"),
    ],
)
def test_a_labelled_term_is_checked_as_the_one_it_is(
    text: str, expected: str, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "people").symlink_to(trained[0] / "people")
    path = tmp_path / "reward.yaml"
    path.write_text(f"terms:\n  {text}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_reward(path)
    assert expected in str(caught.value)


def test_a_built_in_term_is_used_twice_under_two_labels(tmp_path: Path) -> None:
    path = tmp_path / "reward.yaml"
    path.write_text(
        "terms:\n  length.short: {weight: 1, en: [1, 2]}\n  length.long: {weight: 0.5, en: [8, 9]}\n", encoding="utf-8"
    )
    judgement = load_reward(path).score_one_by_one([sample("en", "one two three four")])[0]
    # (2 - 4) / 2 = -1 and (4 - 8) / 8 = -0.5
    assert judgement.terms == {"length.short": -1.0, "length.long": -0.5}
    assert judgement.total == pytest.approx(-1.25)
    changed = reward_hash(path)
    path.write_text(path.read_text().replace("length.long", "length.other"), encoding="utf-8")
    assert reward_hash(path) != changed


def test_the_aspect_is_part_of_the_hash(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "people").symlink_to(trained[0] / "people")
    hashes = []
    for aspect in ("overall", "engagement"):
        path = tmp_path / "reward.yaml"
        path.write_text(yaml.safe_dump({"terms": {"people": {"weight": 1, "model": "people", "aspect": aspect}}}))
        hashes.append(reward_hash(path))
    assert hashes[0] != hashes[1]


# -- the command ---------------------------------------------------------------------------------------------------


def test_a_dry_run_reads_everything_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = settings_file(tmp_path, "aim: [engagement]\nreaders: {zh: some-model}\n")
    write_lines(tmp_path / "own.jsonl", [*lines("en")[:7], *lines("zh")[:5]])
    before = sorted(tmp_path.iterdir())
    assert main(["reward", "train", str(path), "--dry-run", "--set", "data=own.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "reward: 5 ratings in zh, reader some-model\n" in out
    assert "reward: 7 ratings in en, reader none\n" in out
    plan = yaml.safe_load(out.split("reward: ")[0])
    assert plan["data"] == "own.jsonl" and plan["aim"] == ["engagement"]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "data: "),
        (["--dry-run"], "data: "),
        (["--dry-run", "--set", "data=gone"], "gone: no such file or folder"),
        (["--dry-run", "--set", "data=own.jsonl"], "own.jsonl: line 1, ratings: expected"),
        (["--set", "aim=[x"], "--set aim: '[x' is not a YAML value"),
        (["--set", "seeed=1"], "seeed: unknown key"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    options: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    row = lines()[0]
    del row["ratings"]
    write_lines(tmp_path / "own.jsonl", [row])
    assert main(["reward", "train", str(settings_file(tmp_path)), *options]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rlrp: ")]
    assert len(told) == 1 and expected in told[0]
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml", "own.jsonl"}

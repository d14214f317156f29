"""`rlrp reward score`: the file contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reward.sample_files import read_sample_lines
from reward.scoring import score_file
from rlrp.cards import CharacterCard, card_to_dict
from rlrp.cli import main
from rlrp.errors import UserError

REWARD = "terms:\n  length: {weight: 1, en: [4, 9], zh: [4, 9]}\n  dissonance: {weight: 1, neutral: -0.5}\n"


def line(identifier: Any = "1", reply: str = "No, you fool, go away!", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Give it to me."}]
    own = {"id": identifier, "card": {"name": "Ada", "description": "A thief."}, "messages": messages, "reply": reply}
    return {**own, **changes}


def files(folder: Path, lines: list[Any]) -> tuple[Path, Path, Path]:
    (folder / "reward.yaml").write_text(REWARD, encoding="utf-8")
    text = "".join((item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)) + "\n" for item in lines)
    (folder / "in.jsonl").write_text(text, encoding="utf-8")
    return folder / "reward.yaml", folder / "in.jsonl", folder / "out.jsonl"


def scored(folder: Path, lines: list[Any], **options: Any) -> list[dict[str, Any]]:
    paths = files(folder, lines)
    assert score_file(*paths, **options) == len(lines)
    return [json.loads(text) for text in paths[2].read_text(encoding="utf-8").splitlines()]


def test_lines_come_back_in_order_with_their_ids(tmp_path: Path):
    out = scored(tmp_path, [line(at, reply="word " * at) for at in range(7)], batch=3)
    assert [item["id"] for item in out] == list(range(7))
    # Below the band of 4: (n - 4) / 4.
    assert [item["terms"]["length"] for item in out[:5]] == [-1.0, -0.75, -0.5, -0.25, 0.0]
    assert set(out[0]) == {"id", "total", "terms", "reasons"}
    assert out[0]["reasons"]["length"]


def test_an_abstention_is_null_and_counts_as_the_neutral_value(tmp_path: Path):
    item = scored(tmp_path, [line(reply="*shuts the old door quietly*")])[0]
    assert item["terms"]["dissonance"] is None
    assert item["total"] == pytest.approx(item["terms"]["length"] - 0.5)


def test_a_whole_card_may_stand_in_place_of_its_name(tmp_path: Path):
    card = card_to_dict(CharacterCard("Ada", description="A thief."))
    plain, whole = scored(tmp_path, [line("a"), line("b", card=card)])
    assert plain["terms"] == whole["terms"]


def test_equal_cards_are_one_object(tmp_path: Path):
    _, source, _ = files(tmp_path, [line("a"), line("b"), line("c", card={"name": "Bo"})])
    cards = [line.sample.card for line in read_sample_lines(source)]
    assert cards[0] is cards[1]
    assert cards[2].name == "Bo"


def test_lone_surrogates_and_long_replies_are_scored(tmp_path: Path):
    broken = json.dumps(line("s", reply="x")).replace('"x"', '"bad \\ud800 text here"')
    out = scored(tmp_path, [broken, line("l", reply="la " * 30_000)])
    assert [item["id"] for item in out] == ["s", "l"]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("{oops", "line 2: is not JSON"),
        ("[1]", "line 2: got a list"),
        ({"id": "2"}, "line 2, card: missing"),
        (line(None), "line 2, id: got NoneType"),
        (line(reply=None), "line 2, reply: got NoneType, expected text"),
        (line(messages="hi"), "line 2, messages: got str, expected a list"),
        (line(messages=["hi"]), "line 2, messages[0]: got str"),
        (line(messages=[{"role": "bot", "content": ""}]), "line 2, messages[0].role: got 'bot'"),
        (line(messages=[{"role": "user"}]), "line 2, messages[0].content: got NoneType"),
        (line(card={"description": "nobody"}), "line 2, card, name: missing"),
        (line(card="Ada"), "line 2, card"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(bad: Any, expected: str, tmp_path: Path):
    reward, source, target = files(tmp_path, [line(), bad])
    with pytest.raises(UserError) as caught:
        score_file(reward, source, target, batch=1)
    assert expected in str(caught.value)
    assert str(source) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "reward.yaml"]


def test_overrides_change_the_total_and_keep_the_term(tmp_path: Path):
    item = scored(tmp_path, [line(reply="Go.")], overrides=["terms.dissonance.weight=0", "terms.length.weight=2"])[0]
    # One word of at least 4: (1 - 4) / 4, twice.
    assert item["total"] == pytest.approx(-1.5) and item["terms"]["dissonance"] is not None


def test_the_command_takes_overrides_and_refuses_unknown_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reward, source, target = map(str, files(tmp_path, [line(reply="Go.")]))
    command = ["reward", "score", "--reward", reward, "--in", source, "--out", target]
    assert main([*command, "--set", "terms.length.weight=0", "--set", "terms.dissonance.weight=0"]) == 0
    assert json.loads(Path(target).read_text(encoding="utf-8"))["total"] == 0.0
    assert main([*command, "--set", "terms.lenght.weight=0"]) == 2
    assert "--set: terms.lenght: unknown term 'lenght'; did you mean 'length'?" in capsys.readouterr().err


def test_an_empty_file_gives_an_empty_file(tmp_path: Path):
    assert scored(tmp_path, []) == []

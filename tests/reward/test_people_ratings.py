"""People's ratings: CharacterBench's folder and files of one's own, and what is said of mistakes in either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_ratings import bench_file, bench_row, lines, write_lines

from reward.people.ratings import flat_text, read_ratings
from rlrp.errors import UserError


def test_a_row_of_the_bench_is_two_ratings_in_two_languages(tmp_path: Path) -> None:
    bench_file(tmp_path / "raw_data", "engagement", [bench_row()])
    zh, en = read_ratings(tmp_path)
    assert (zh.language, zh.score, zh.dimension, zh.generator) == ("zh", 4.0, "engagement", "claude3-opus")
    assert (zh.published, en.published) == (3.0, 2.5)
    # The translation is of the same item, by the same generator, of the same character.
    assert (en.item, en.generator, en.character, en.score) == (zh.item, zh.generator, "石头", 4.0)
    assert zh.sample.card.description == "身份：石匠\n爱好：下棋；喝茶"
    assert [(m.role, m.content) for m in zh.sample.messages] == [
        ("user", "你是做什么的？"),
        ("assistant", "凿石头的。"),
        ("user", "累不累？"),
    ]
    assert en.sample.card.name == "Stone" and en.sample.reply == "Tiring? I cut three blocks a day!"


def test_one_language_may_be_asked_for_and_one_may_be_missing(tmp_path: Path) -> None:
    rows = [bench_row(id=1), bench_row(id=2, translation_en=None)]
    bench_file(tmp_path, "engagement", rows)
    assert [rating.item for rating in read_ratings(tmp_path, ["en"])] == ["engagement/1"]
    assert len(read_ratings(tmp_path, ["zh"])) == 2
    assert len(read_ratings(tmp_path)) == 3


def test_the_last_question_is_not_repeated(tmp_path: Path) -> None:
    asked = [{"turn": 1, "speaker": "user", "utterance": "累不累？"}]
    bench_file(tmp_path, "engagement", [bench_row(dialogue=asked), bench_row(dialogue=[])])
    assert [len(rating.sample.messages) for rating in read_ratings(tmp_path, ["zh"])] == [1, 1]


def test_every_file_of_the_folder_is_a_dimension(tmp_path: Path) -> None:
    for name in ("human_likeness", "engagement"):
        bench_file(tmp_path / "eval_data" / "raw_data", name, [bench_row()])
    (tmp_path / "README.md").write_text("about")
    assert [rating.dimension for rating in read_ratings(tmp_path, ["zh"])] == ["engagement", "human_likeness"]


def test_without_a_published_judge_there_is_no_score_of_it(tmp_path: Path) -> None:
    bench_file(tmp_path, "engagement", [bench_row(pred_zh_ref_free=odd) for odd in (None, "4", True, float("nan"))])
    assert [rating.published for rating in read_ratings(tmp_path, ["zh"])] == [None] * 4


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (3, "[1]: has no 'dialogue'"),
        ({"dialogue": []}, "[1]: has no 'messages'"),
        (bench_row(annotation_score=None), "[1].annotation_score: got None, expected a number"),
        (bench_row(annotation_score="4"), "[1].annotation_score: got '4', expected a number"),
        (bench_row(annotation_score=float("nan")), "[1].annotation_score: got nan"),
        (bench_row(response_messages=["r"]), "[1]: cannot be read as a dialogue"),
        (bench_row(response_messages={}), "[1]: cannot be read as a dialogue: 'response'"),
        (bench_row(messages=None), "[1]: cannot be read as a dialogue"),
        (bench_row(dialogue=["hi"]), "[1]: cannot be read as a dialogue"),
        (bench_row(dialogue=3), "[1]: cannot be read as a dialogue"),
        (bench_row(character_name=" "), "[1]: cannot be read as a dialogue: name: missing or empty"),
        (bench_row(translation_en={}), "[1]: cannot be read as a dialogue: 'character_name'"),
        (bench_row(translation_en=["x"]), "[1]: cannot be read as a dialogue"),
    ],
)
def test_a_bad_row_of_the_bench_is_named_by_file_and_place(bad: Any, expected: str, tmp_path: Path) -> None:
    path = bench_file(tmp_path, "engagement", [bench_row(), bad])
    with pytest.raises(UserError) as caught:
        read_ratings(tmp_path)
    assert str(caught.value).startswith(f"{path}: {expected}")


def test_a_file_of_the_bench_is_a_list(tmp_path: Path) -> None:
    path = bench_file(tmp_path, "engagement", {"rows": []})
    with pytest.raises(UserError, match="got dict, expected a list of rated replies") as caught:
        read_ratings(tmp_path)
    assert caught.value.file == str(path)
    path.write_text("[{", encoding="utf-8")
    with pytest.raises(UserError, match="is not JSON"):
        read_ratings(tmp_path)


def test_half_characters_in_the_bench_do_not_reach_a_tokenizer(tmp_path: Path) -> None:
    bench_file(tmp_path, "engagement", [bench_row(response_messages={"model": "x", "response": "俺\ud800！"})])
    assert read_ratings(tmp_path, ["zh"])[0].sample.reply == "俺?！"


def test_flat_text_is_one_line_a_key() -> None:
    assert flat_text({"a": {"b": 1}, "c": [1, ["x", None]]}) == "a：b：1\nc：1；x；None"


# -- files of one's own --------------------------------------------------------------------------------------------


def test_a_line_of_ones_own_is_a_rating_for_each_dimension(tmp_path: Path) -> None:
    given = lines("zh", dimensions=["engagement", "wit"])[:1] + lines("en")[:1]
    given[0]["ratings"]["wit"] = 1.5
    del given[1]["generator"]
    first, second, third = read_ratings(write_lines(tmp_path / "own.jsonl", given))
    assert [(r.dimension, r.score) for r in (first, second, third)] == [
        ("engagement", 4.0),
        ("wit", 1.5),
        ("engagement", 4.0),
    ]
    assert (first.language, third.language) == ("zh", "en")
    assert (first.generator, third.generator) == ("a", "")
    assert first.item == second.item == given[0]["id"] and first.character == "角色0号"
    assert first.sample.reply == given[0]["reply"] and first.published is None


def test_a_folder_of_ones_own_and_parquet_are_read_too(tmp_path: Path) -> None:
    given = lines()
    folder = tmp_path / "own"
    folder.mkdir()
    write_lines(folder / "b.jsonl", given[3:])
    write_lines(folder / "a.jsonl", given[:3])
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "own.parquet")
    expected = [(row["id"], row["ratings"]["engagement"], row["generator"].lower()) for row in given]
    for path in (folder, tmp_path / "own.parquet"):
        assert [(r.item, r.score, r.generator) for r in read_ratings(path)] == expected
    assert read_ratings(folder, ["zh"]) == []


def test_a_dimension_that_a_row_of_parquet_lacks_is_no_rating(tmp_path: Path) -> None:
    given = lines()[:2]
    given[1]["ratings"] = {"wit": 2}
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "own.parquet")
    assert [(r.dimension, r.score) for r in read_ratings(tmp_path / "own.parquet")] == [("engagement", 4), ("wit", 2)]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("{oops", "line 2: is not JSON"),
        ({"id": "x"}, "line 2, card: missing"),
        ({"ratings": None}, 'line 2, ratings: expected {dimension: number}, such as {"engagement": 4}'),
        ({"ratings": {}}, "line 2, ratings: expected"),
        ({"ratings": [4]}, "line 2, ratings: expected"),
        ({"ratings": {"wit": "high"}}, "line 2, ratings.wit: got 'high', expected a number"),
        ({"ratings": {"wit": True}}, "line 2, ratings.wit: got True, expected a number"),
        ({"ratings": {"wit": None}}, "line 2, ratings.wit: got None, expected a number"),
        ({"ratings": {"wit": float("nan")}}, "line 2, ratings.wit: got nan, expected a number"),
        ({"ratings": {"wit": float("inf")}}, "line 2, ratings.wit: got inf, expected a number"),
        ({"ratings": {"wit": 10**400}}, "line 2, ratings.wit: got 1000"),
    ],
)
def test_a_bad_line_of_ones_own_is_named_by_file_and_line(bad: Any, expected: str, tmp_path: Path) -> None:
    good = lines()[0]
    second = {**good, **bad} if isinstance(bad, dict) and "ratings" in bad else bad
    path = write_lines(tmp_path / "own.jsonl", [good, second])
    with pytest.raises(UserError) as caught:
        read_ratings(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gone", "no such file or folder; give a folder of CharacterBench"), (".", "no *_test.json (CharacterBench)")],
)
def test_where_there_is_nothing_to_read_it_is_said(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps([]))
    with pytest.raises(UserError) as caught:
        read_ratings(tmp_path / name)
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)

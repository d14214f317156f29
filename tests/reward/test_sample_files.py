"""Samples in JSON lines and parquet, in and out: the same either way, and mistakes named by file, row and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.sample_files import is_parquet, read_sample_lines
from reward.scoring import score_file
from rlrp.errors import UserError

REWARD = "terms:\n  length: {weight: 1, en: [4, 9], zh: [4, 9]}\n  dissonance: {weight: 1, neutral: -0.5}\n"
WHOLE_CARD = {
    "spec": "chara_card_v2",
    "spec_version": "2.0",
    "data": {
        "name": "Ada",
        "description": "A thief.",
        "character_book": {
            "entries": [
                {"keys": ["gold"], "content": "Hers.", "enabled": True, "insertion_order": 1, "priority": 2},
                {"keys": ["silver"], "content": "Not hers.", "enabled": True, "insertion_order": 2},
            ]
        },
    },
}


def line(identifier: Any = "1", reply: Any = "No, you fool, go away!", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Give it to me."}]
    own = {"id": identifier, "card": {"name": "Ada", "description": "A thief."}, "messages": messages, "reply": reply}
    return {**own, **changes}


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def as_parquet_of_text(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Card and messages as JSON, as tools write them that know no nested columns."""
    flat = [{**row, "card": json.dumps(row["card"]), "messages": json.dumps(row["messages"])} for row in rows]
    return as_parquet(path, flat)


FORMATS = pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_parquet_of_text])
Writer = Callable[[Path, list[dict[str, Any]]], Path]


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    path = tmp_path / "reward.yaml"
    path.write_text(REWARD, encoding="utf-8")
    return path


@FORMATS
def test_every_format_holds_the_same_samples(write: Writer, tmp_path: Path) -> None:
    rows = [line("a"), line("b", "俺不去！", card={"name": "张飞"}), line("c", card=WHOLE_CARD), line("d", messages=[])]
    found = list(read_sample_lines(write(tmp_path / "in", rows)))
    assert [own.identifier for own in found] == ["a", "b", "c", "d"]
    assert [own.sample.card.name for own in found] == ["Ada", "张飞", "Ada", "Ada"]
    assert [own.sample.reply for own in found] == [row["reply"] for row in rows]
    assert found[0].sample.messages[0].content == "Give it to me."
    assert found[3].sample.messages == ()
    book = found[2].sample.card.lorebook
    assert book is not None and [entry.priority for entry in book.entries] == [2, None]


@FORMATS
def test_scores_do_not_depend_on_the_format(write: Writer, reward: Path, tmp_path: Path) -> None:
    rows = [line(str(at), reply) for at, reply in enumerate(["Go.", "*nods*", "You there, put that down right now!"])]
    score_file(reward, as_jsonl(tmp_path / "plain", rows), tmp_path / "expected.jsonl")
    score_file(reward, write(tmp_path / "in", rows), tmp_path / "out.parquet", batch=2)
    expected = [json.loads(text) for text in (tmp_path / "expected.jsonl").read_text().splitlines()]
    got = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert list(got[0]) == ["id", "total", "terms.length", "terms.dissonance", "reasons"]
    assert [
        {
            "id": row["id"],
            "total": row["total"],
            "terms": {"length": row["terms.length"], "dissonance": row["terms.dissonance"]},
            "reasons": json.loads(row["reasons"]),
        }
        for row in got
    ] == expected
    assert got[1]["terms.dissonance"] is None


def test_numbers_as_ids_are_text_in_parquet(reward: Path, tmp_path: Path) -> None:
    score_file(reward, as_parquet(tmp_path / "in", [line(3), line(4)]), tmp_path / "out.PARQUET")
    assert pq.read_table(tmp_path / "out.PARQUET")["id"].to_pylist() == ["3", "4"]


def test_no_samples_give_a_table_without_rows(reward: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("", encoding="utf-8")
    assert score_file(reward, tmp_path / "in.jsonl", tmp_path / "out.parquet") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 0 and "terms.length" in table.column_names
    # A table that was written is one that can be read, with the columns of a sample too.
    empty = pa.Table.from_pylist([line()]).slice(0, 0)
    pq.write_table(empty, tmp_path / "in.parquet")
    assert score_file(reward, tmp_path / "in.parquet", tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
def test_lines_are_read_as_they_are_asked_for(write: Writer, tmp_path: Path) -> None:
    """The mistake in the last row is not met by whoever stops before it; 600 rows are more than one batch."""
    rows = [line(str(at)) for at in range(600)] + [line("last", None)]
    path = write(tmp_path / "in", rows)
    assert [own.identifier for own in islice(read_sample_lines(path), 600)] == [row["id"] for row in rows[:-1]]
    with pytest.raises(UserError, match=r"(line|row) 601, reply: got NoneType, expected text"):
        list(read_sample_lines(path))


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_a_mistake_in_the_last_row_leaves_the_scores_of_before(out: str, reward: Path, tmp_path: Path) -> None:
    (tmp_path / out).write_bytes(b"from before")
    path = as_parquet(tmp_path / "in", [line("1"), line("2"), line("3", None)])
    with pytest.raises(UserError):
        score_file(reward, path, tmp_path / out, batch=1)
    assert (tmp_path / out).read_bytes() == b"from before"
    assert {file.name for file in tmp_path.iterdir()} == {"in.parquet", "reward.yaml", out}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"id": "2"}, "row 2, reply: got NoneType"),
        (line("2", messages=None), "row 2, messages: got NoneType, expected a list"),
        (line("2", messages=[{"role": "bot", "content": "hi"}]), "row 2, messages[0].role: got 'bot'"),
        (line("2", messages=[{"role": "user", "content": None}]), "row 2, messages[0].content: got NoneType"),
        (line("2", card={"name": " ", "description": ""}), "row 2, card, name: missing or empty"),
    ],
)
def test_a_bad_row_is_named(bad: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "in", [line("1"), bad])
    with pytest.raises(UserError) as caught:
        list(read_sample_lines(path))
    assert expected in str(caught.value)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"card": None}, "row 1, card: missing; a line has id, card, messages, reply"),
        ({"id": [1.5]}, "row 1, id: got float"),
        ({"reply": [b"\x00"]}, "row 1, reply: got bytes, expected text"),
        ({"card": ["{oops"]}, "row 1, card: is not JSON"),
        ({"messages": ["[" * 100_000]}, "row 1, messages: is not JSON"),
        ({"messages": ['"hi"']}, "row 1, messages: got str, expected a list"),
    ],
)
def test_a_wrong_column_is_named(columns: dict[str, Any], expected: str, tmp_path: Path) -> None:
    table = {"id": ["1"], "card": ['{"name": "Ada"}'], "messages": ["[]"], "reply": ["Hm."], **columns}
    pq.write_table(pa.table({key: own for key, own in table.items() if own is not None}), tmp_path / "in.parquet")
    with pytest.raises(UserError) as caught:
        list(read_sample_lines(tmp_path / "in.parquet"))
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 400


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    good = json.dumps(line("1", "la " * 3000)).encode()
    (tmp_path / "in.jsonl").write_bytes(good + b"\n" + good + b'\n{"id": "\xff"}\n')
    found = read_sample_lines(tmp_path / "in.jsonl")
    assert [own.place for own in islice(found, 2)] == ["line 1", "line 2"]
    with pytest.raises(UserError, match=r"in\.jsonl: line 3: is not UTF-8 text \(byte 8\)"):
        next(found)


def test_a_parquet_column_that_is_not_utf8_is_the_users_error(tmp_path: Path) -> None:
    offsets = pa.array([0, 2], pa.int32()).buffers()[1]
    reply = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff\xfe")])
    columns = {"id": ["1"], "card": ['{"name": "Ada"}'], "messages": ["[]"], "reply": reply}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    with pytest.raises(UserError, match=r"in\.parquet: .*is not UTF-8"):
        list(read_sample_lines(tmp_path / "in.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("in.parquet", b"", "is not parquet"),
        ("in.parquet", b'{"id": "1"}\n', "is not parquet"),
        ("in.csv", b"id,reply\n1,Hm.\n", "line 1: is not JSON"),
        ("in.jsonl", b"PAR1\x15\x04\xff", "line 1: is not UTF-8 text"),
        ("in", b"[]\n", "line 1: got a list, expected an object"),
    ],
)
def test_what_a_file_is_not_is_said(name: str, content: bytes, expected: str, reward: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        score_file(reward, tmp_path / name, tmp_path / "out.jsonl")
    assert caught.value.file == str(tmp_path / name)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.parquet"])
def test_a_file_that_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name}: no such file"):
        list(read_sample_lines(tmp_path / name))


def test_the_name_tells_the_format_whatever_its_case() -> None:
    assert all(is_parquet(name) for name in ("a.parquet", "a.PQ", Path("x/a.Parquet")))
    assert not any(is_parquet(name) for name in ("a.jsonl", "parquet", "a.parquet.gz"))


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_half_characters_in_ids_and_texts_can_be_written(out: str, reward: Path, tmp_path: Path) -> None:
    path = as_jsonl(tmp_path / "in", [line("a\ud800", "What \udfff now, you old fool?")])
    assert score_file(reward, path, tmp_path / out) == 1
    assert b"a?" in (tmp_path / out).read_bytes()


def test_equal_cards_are_one_object_in_parquet_too(tmp_path: Path) -> None:
    rows = [line("a"), line("b"), line("c", card={"name": "Bo"}), line("d")]
    cards = [own.sample.card for own in read_sample_lines(as_parquet(tmp_path / "in", rows))]
    assert cards[0] is cards[1] is cards[3]
    assert cards[2] is not cards[0]


@given(
    replies=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=4),
    asked=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
def test_any_text_comes_back_from_either_format(
    replies: list[str], asked: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [line(at, reply, messages=[{"role": "user", "content": asked}]) for at, reply in enumerate(replies)]
    folder = tmp_path_factory.mktemp("any")
    for path in (as_jsonl(folder / "in", rows), as_parquet(folder / "in", rows)):
        found = list(read_sample_lines(path))
        assert [own.sample.reply for own in found] == replies
        assert [own.identifier for own in found] == list(range(len(replies)))
        assert {own.sample.messages[0].content for own in found} == {asked}

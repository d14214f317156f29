import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlrp.cards import CharacterCard
from rlrp.dialogue import Dialogue, Message, read_contrasts, read_dialogues, read_prompts, write_dialogues
from rlrp.errors import UserError

ZHANG = CharacterCard(name="张飞", aliases=("翼德",), description="燕人。")
NEMO = CharacterCard(name="Captain Nemo", nickname="Nemo", description="Commands the Nautilus.")
CARDS = {"zhang-fei": ZHANG, "captain-nemo": NEMO}
HELLO = {"role": "user", "content": "who goes there"}
REPLY = {"role": "assistant", "content": "No one."}


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def refused(path: Path, cards: dict[str, CharacterCard] | None = CARDS) -> UserError:
    with pytest.raises(UserError) as error:
        read_dialogues(path, cards)
    assert error.value.file is not None and error.value.file.startswith(str(path))
    return error.value


def test_our_format(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"id": "n-1", "card": "captain-nemo", "messages": [HELLO, REPLY]})
    expected = Dialogue("n-1", (Message("user", "who goes there"), Message("assistant", "No one.")), NEMO)
    assert read_dialogues(path, CARDS) == [expected]


def test_a_card_may_be_an_object(tmp_path: Path):
    card = {"name": "Ishmael", "description": "A sailor."}
    path = write_lines(tmp_path / "a.jsonl", {"id": "i", "card": card, "messages": [HELLO, REPLY]})
    found = read_dialogues(path)[0].card
    assert found is not None and found.name == "Ishmael"


def test_openai_format_has_no_card(tmp_path: Path):
    system = {"role": "system", "content": "Answer briefly."}
    path = write_lines(tmp_path / "chat.jsonl", {"messages": [system, HELLO, REPLY]})
    (dialogue,) = read_dialogues(path, CARDS)
    assert dialogue.card is None
    assert dialogue.id == "chat-00001"
    assert [message.role for message in dialogue.messages] == ["system", "user", "assistant"]


def test_sharegpt_format(tmp_path: Path):
    turns = [{"from": "human", "value": "三加五？"}, {"from": "gpt", "value": "八。"}]
    path = write_lines(tmp_path / "s.jsonl", {"conversations": turns, "system": "简短。"}, {"conversations": turns})
    first, second = read_dialogues(path)
    assert first.messages == (Message("system", "简短。"), Message("user", "三加五？"), Message("assistant", "八。"))
    assert second.messages == first.messages[1:]


def test_a_json_list(tmp_path: Path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps([{"messages": [HELLO, REPLY]}, {"messages": [HELLO, REPLY]}]))
    assert [dialogue.id for dialogue in read_dialogues(path)] == ["s-00001", "s-00002"]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path):
    write_lines(tmp_path / "b.jsonl", {"id": "b", "messages": [HELLO, REPLY]})
    write_lines(tmp_path / "a.jsonl", {"id": "a", "messages": [HELLO, REPLY]})
    (tmp_path / "notes.txt").write_text("not ours")
    assert [dialogue.id for dialogue in read_dialogues(tmp_path)] == ["a", "b"]


CHAT = [
    {"user_name": "unused", "character_name": "unused", "create_date": "2026-1-1", "chat_metadata": {}},
    {"name": "Nemo", "is_user": False, "is_system": False, "mes": "You are aboard.", "swipes": ["x"], "swipe_id": 0},
    {"name": "Ann", "is_user": True, "is_system": False, "mes": "where is this?"},
    {"name": "SillyTavern System", "is_user": False, "is_system": True, "mes": "Hidden."},
    {"name": "Nemo", "is_user": False, "mes": "Under the sea."},
    {"name": "Nemo", "is_user": False, "mes": "*He turns a valve.*"},
]


@pytest.mark.parametrize("skip", [0, 1], ids=["with header", "without header"])
def test_sillytavern_chat(tmp_path: Path, skip: int):
    path = write_lines(tmp_path / "Nemo - 2026-1-1.jsonl", *CHAT[skip:])
    (dialogue,) = read_dialogues(path, CARDS)
    assert dialogue.id == "Nemo - 2026-1-1"
    assert dialogue.card is NEMO  # by nickname
    assert dialogue.messages == (
        Message("assistant", "You are aboard."),
        Message("user", "where is this?"),
        Message("assistant", "Under the sea.\n\n*He turns a valve.*"),
    )


def test_sillytavern_names_match_aliases_and_slugs(tmp_path: Path):
    for name in ("张飞", "翼德", "Zhang-Fei"):
        path = write_lines(tmp_path / "c.jsonl", {"name": name, "is_user": False, "mes": "俺来也！"})
        assert read_dialogues(path, CARDS)[0].card is ZHANG


def test_sillytavern_narrator_is_the_user(tmp_path: Path):
    narrated = {"name": "Narrator", "is_user": False, "mes": "Night falls.", "extra": {"type": "narrator"}}
    spoken = {"name": "Nemo", "is_user": False, "mes": {"message": "At last."}}
    (dialogue,) = read_dialogues(write_lines(tmp_path / "c.jsonl", narrated, spoken), CARDS)
    assert dialogue.messages == (Message("user", "Night falls."), Message("assistant", "At last."))


def test_sillytavern_unknown_and_several_characters(tmp_path: Path):
    path = write_lines(tmp_path / "c.jsonl", CHAT[0], {"name": "Ahab", "is_user": False, "mes": "Aye."})
    error = refused(path)
    assert error.place == "line 2, name"
    assert "Ahab" in error.message and "Captain Nemo" in error.message
    assert read_dialogues(path, None)[0].card is None
    path = write_lines(tmp_path / "c.jsonl", CHAT[1], {"name": "Ahab", "is_user": False, "mes": "Aye."})
    assert "several characters" in refused(path).message


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ({"card": "ahab", "messages": [HELLO, REPLY]}, "line 2, card", "no card is called 'ahab'; there are captain"),
        ({"card": {}, "messages": [HELLO, REPLY]}, "line 2, card.name", "name"),
        ({"card": 3, "messages": [HELLO, REPLY]}, "line 2, card", "expected"),
        ({"messages": [HELLO, {"role": "assistant", "content": " "}]}, "line 2, messages[1].content", "empty"),
        ({"messages": [HELLO, {"role": "assistant"}]}, "line 2, messages[1].content", "expected text"),
        ({"messages": [HELLO, {"role": "narrator", "content": "x"}]}, "line 2, messages[1].role", "narrator"),
        ({"messages": [{"role": "assistant", "content": "\ud83d"}]}, "line 2, messages[0].content", "half a character"),
        ({"messages": [HELLO]}, "line 2", "no assistant turn"),
        ({"messages": []}, "line 2", "no assistant turn"),
        ({"messages": "hello"}, "line 2, messages", "expected a list"),
        ({"messages": ["hello"]}, "line 2, messages[0]", "expected an object"),
        ({"messages": [HELLO, HELLO, REPLY]}, "line 2, message 2", "two user messages in a row"),
        ({"messages": [HELLO, REPLY, {"role": "system", "content": "x"}]}, "line 2, message 3", "first"),
        ({"conversations": [{"from": "owl", "value": "x"}]}, "line 2, conversations[0].from", "human"),
        ({"conversations": [{"from": "gpt", "value": "x"}], "system": 4}, "line 2, system", "expected text"),
        ({"dialogue": []}, "line 2", "expected messages or conversations, got dialogue"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, line: dict[str, Any], place: str, words: str):
    error = refused(write_lines(tmp_path / "a.jsonl", {"messages": [HELLO, REPLY]}, line))
    assert error.place == place
    assert words in error.message


def test_a_slug_needs_cards(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"card": "captain-nemo", "messages": [HELLO, REPLY]})
    assert "no cards were given" in refused(path, None).message


def test_nothing_to_read(tmp_path: Path):
    assert "no .jsonl files" in refused(tmp_path).message
    (tmp_path / "en").mkdir()
    write_lines(tmp_path / "en" / "a.jsonl", {"messages": [HELLO, REPLY]})
    assert "its folders have some: en" in refused(tmp_path).message
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    assert "empty" in refused(empty).message
    assert "no such file" in refused(tmp_path / "none.jsonl").message


def test_broken_json_names_the_line(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"messages": [HELLO, REPLY]})
    path.write_text(path.read_text() + '{"messages": [\n')
    assert refused(path).place == "line 2"


def test_ids_must_differ(tmp_path: Path):
    line = {"id": "same", "messages": [HELLO, REPLY]}
    assert "'same'" in refused(write_lines(tmp_path / "a.jsonl", line, line)).message


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(TURNS, st.sampled_from([None, ZHANG, NEMO, CharacterCard(name="Stray")])), min_size=1))
def test_what_is_written_is_read_back(tmp_path: Path, drawn: list[Any]):
    dialogues = [
        Dialogue(
            f"d{i}",
            tuple(m for said, reply in turns for m in (Message("user", said), Message("assistant", reply))),
            card,
        )
        for i, (turns, card) in enumerate(drawn)
    ]
    path = tmp_path / "out.jsonl"
    write_dialogues(dialogues, path, cards=CARDS)
    again = read_dialogues(path, CARDS)
    assert [(d.id, d.messages) for d in again] == [(d.id, d.messages) for d in dialogues]
    assert [d.card and d.card.name for d in again] == [d.card and d.card.name for d in dialogues]
    assert all(d.card is ZHANG for d in again if d.card and d.card.name == "张飞")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "conversations", "from", "value", "mes", "name", "card"]),
            inner | st.sampled_from(["user", "assistant", "human", "gpt"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.lists(JSON, max_size=3))
def test_any_json_is_read_or_refused(tmp_path: Path, lines: list[Any]):
    path = write_lines(tmp_path / "any.jsonl", *lines)
    try:
        dialogues = read_dialogues(path, CARDS)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(any(m.role == "assistant" and m.content.strip() for m in d.messages) for d in dialogues)


def test_prompts(tmp_path: Path):
    path = write_lines(tmp_path / "p.jsonl", {"id": "p-1", "kind": "bait", "text": "7 x 8?"}, {"text": "进来吧"})
    first, second = read_prompts(path)
    assert (first.id, first.kind, first.text) == ("p-1", "bait", "7 x 8?")
    assert (second.id, second.kind, second.text) == ("p-00002", "", "进来吧")
    with pytest.raises(UserError, match="line 1, text: is empty"):
        read_prompts(write_lines(tmp_path / "p.jsonl", {"text": " "}))
    with pytest.raises(UserError, match="holds no prompts"):
        read_prompts(write_lines(tmp_path / "p.jsonl"))


PAIR = {
    "id": "c",
    "card": "captain-nemo",
    "kind": "biography",
    "user": "who?",
    "in_role": "No one.",
    "faulty": "I am N.",
}


def test_contrasts(tmp_path: Path):
    (contrast,) = read_contrasts(write_lines(tmp_path / "c.jsonl", PAIR), CARDS)
    assert contrast.card is NEMO
    assert (contrast.card_slug, contrast.kind, contrast.faulty) == ("captain-nemo", "biography", "I am N.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"card": "ahab"}, "line 1, card: no card is called 'ahab'"),
        ({"faulty": ""}, "line 1, faulty: is empty"),
        ({"faulty": "No one."}, "line 1: in_role and faulty are the same"),
        ({"kind": None}, "line 1, kind: got NoneType, expected text"),
    ],
)
def test_wrong_contrasts(tmp_path: Path, change: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        read_contrasts(write_lines(tmp_path / "c.jsonl", PAIR | change), CARDS)

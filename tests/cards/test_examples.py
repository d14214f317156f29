from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrp.cards import CharacterCard, format_examples, is_illeist, parse_examples


def test_blocks_labels_and_continuations() -> None:
    text = (
        "<START>\n{{user}}: Hi.\n{{Char}}: Hello.\n*waves*\n\n"
        "<start>\n<user>：你好\r\n  Watson ： 早。\nnote: kept\n<START>\n\n"
    )
    assert parse_examples(text, char="Watson", user="Ann") == [
        [("user", "Hi."), ("char", "Hello.\n*waves*")],
        [("user", "你好"), ("char", "早。\nnote: kept")],
    ]


def test_resolved_names_longest_first() -> None:
    blocks = parse_examples("Ann: a\nAnn Lee: b\nJohn: c\nJOHN: d", char=("Ann Lee", "John"), user=("Ann",))
    assert blocks == [[("user", "a"), ("char", "b"), ("char", "c"), ("char", "d")]]


def test_text_without_labels_is_the_characters() -> None:
    assert parse_examples("By Jove!\n<START>Indeed.") == [[("char", "By Jove!")], [("char", "Indeed.")]]
    assert parse_examples(" \n<START>\n{{char}}:\n") == []


lines = st.text(st.characters(exclude_characters="\n\r<:：", exclude_categories=["Cs"]), min_size=1).map(str.strip)
turns = st.tuples(st.sampled_from(["user", "char"]), lines.filter(bool))


@given(st.lists(st.lists(turns, min_size=1, max_size=4), max_size=3), st.sampled_from([": ", "："]))
def test_what_is_formatted_is_parsed(blocks: list[list[tuple[str, str]]], colon: str) -> None:
    text = "".join(
        "<START>\n" + format_examples([block], char="{{char}}", user="{{user}}", colon=colon) + "\n"  # type: ignore[list-item]
        for block in blocks
    )
    assert parse_examples(text) == blocks


fragments = st.sampled_from(["<START>", "\n", "Al", ":", "：", " ", "{{user}}", "{{char}}", "x"])


@given(st.lists(fragments, max_size=30).map("".join))
def test_turns_are_never_empty_and_nothing_said_is_lost(text: str) -> None:
    said = [said for block in parse_examples(text, char="Al") for _, said in block]
    assert all(text and text == text.strip() for text in said)
    assert "".join(said).count("x") == text.count("x")


def talks(examples: str, name: str = "Dobby", **fields: object) -> bool:
    return is_illeist(CharacterCard(name=name, examples=examples, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "examples", "expected"),
    [
        ("Dobby", "{{user}}: hi\n{{char}}: Dobby is free! Dobby has a sock.", True),
        ("Dobby", "Dobby: I am free! I have a sock. Poor Dobby, my friends say.", False),  # 1 of 4 mentions
        ("Dobby", "Dobby: I am free! I have a sock. Dobby is glad.", True),  # 1 of 3
        ("Dobby", "{{char}}: It rains.", False),
        ("Dobby", "", False),
        ("Dobby", "{{user}}: Dobby? Dobby!\n{{char}}: I am coming.", False),
        ("Dobby", "{{char}}: *Dobby bows. Dobby smiles.* I am here.", False),
        ("Watson", '{{char}}: Watson sat down. "I am tired," Watson said.', False),
        ("Watson", '{{char}}: He sat down. "Watson is tired," he said.', True),
        ("Watson", "{{char}}: My name is Watson. I'm Watson.", False),
        ("The Captain", "{{char}}: The sea is calm. The wind is not.", False),
        ("Bilbo Baggins", "{{char}}: Baggins never steals.", True),
        ("张飞", "{{user}}：你怕吗？\n{{char}}：俺老张可不怕你！", False),
        ("张飞", "{{char}}：张飞不怕你！", True),
        ("Saber", "{{char}}：Saber不怕你！", True),
        ("Ann", "{{char}}：Anna不怕你！", False),
        ("张飞", "{{char}}：我叫张飞。我是张飞，字翼德。", False),
        ("张飞", "{{char}}：（张飞大笑）我们走。自我介绍免了。", False),
        ("夏洛克·福尔摩斯", "{{char}}：福尔摩斯从不猜测。", True),
        ("刘禅", "{{char}}：孤知道了。刘禅之名，孤岂不知。孤独啊。", True),  # 1 of 3: 孤独 is not a pronoun
    ],
)
def test_illeist(name: str, examples: str, expected: bool) -> None:
    assert talks(examples, name) is expected


def test_illeist_flag_wins() -> None:
    assert talks("{{char}}: I am here.", illeist=True) is True
    assert talks("{{char}}: Dobby is free.", illeist=False) is False


def test_aliases_count_as_the_name_and_own_words_as_first_person() -> None:
    assert talks("{{char}}: 宝宝饿了。", "小雨", aliases=("宝宝",)) is True
    assert talks("{{char}}: 宝宝饿了。宝宝要吃。小雨困。", "小雨") is True
    assert talks("{{char}}: 宝宝饿了。宝宝要吃。宝宝哭。小雨困。", "小雨", self_reference=("宝宝",)) is False  # 1 of 4

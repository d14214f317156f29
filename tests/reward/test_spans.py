"""Splitting replies into speech and the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.spans import is_novel_style, join, reply_spans, split_spans, visible
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample


def kinds(text: str, *, novel: bool = False) -> list[tuple[str, str]]:
    return [(s.kind, text[s.start : s.end].strip()) for s in split_spans(text, novel=novel)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*nods* Come in.", [("action", "*nods*"), ("speech", "Come in.")]),
        ("（点头）进来吧。", [("action", "（点头）"), ("speech", "进来吧。")]),
        ("[I must run.] Later!", [("thought", "[I must run.]"), ("speech", "Later!")]),
        ("<think>plan</think>Hi", [("plan", "<think>plan</think>"), ("speech", "Hi")]),
        ("<think>cut off", [("plan", "<think>cut off")]),
        ("<role_thinking>怕</role_thinking>走", [("thought", "<role_thinking>怕</role_thinking>"), ("speech", "走")]),
        ("Hi ((brb)) there", [("speech", "Hi"), ("ooc", "((brb))"), ("speech", "there")]),
        ("(OOC: is this fine?) Go.", [("ooc", "(OOC: is this fine?)"), ("speech", "Go.")]),
        ("[OOC] 我先停一下", [("ooc", "[OOC]"), ("speech", "我先停一下")]),
        ("他说“我不去”，我可不信。", [("speech", "他说"), ("quote", "“我不去”"), ("speech", "，我可不信。")]),
        ("I *really* mean it.", [("speech", "I *really* mean it.")]),
        ("that is **mine**", [("speech", "that is **mine**")]),
        ("3 * 4 is 12", [("speech", "3 * 4 is 12")]),
    ],
)
def test_chat_style(text: str, expected: list[tuple[str, str]]) -> None:
    assert kinds(text) == expected


def test_novel_style_turns_it_round() -> None:
    text = '"Sit down," he said, and poured the tea. "You are late."'
    assert [kind for kind, _ in kinds(text, novel=True)] == ["speech", "action", "speech"]
    assert join(text, split_spans(text, novel=True), "speech") == "Sit down,\nYou are late."
    zh = "“坐。”他倒了茶。"
    assert kinds(zh, novel=True) == [("speech", "“坐。”"), ("action", "他倒了茶。")]


def test_the_card_shows_the_style() -> None:
    novel = CharacterCard(name="Ann", greeting='Ann looks up from the desk. "You came after all," she says.')
    chat = CharacterCard(name="Ann", greeting="*looks up* You came after all.")
    assert is_novel_style(novel) and not is_novel_style(chat)
    assert {s.kind for s in reply_spans(Sample(novel, (), 'She nods. "Good evening to you."'))} == {"speech", "action"}


def test_visible_leaves_out_the_plan() -> None:
    assert visible("<think>be angry</think> Out! *points*") == "Out! *points*"


marks = st.text(alphabet=st.sampled_from('a我 .\n*()（）[]【】「」“”"<>think/OC:，说'), max_size=60)


@given(marks | st.text(max_size=40) | marks.map(lambda t: f"<think>{t}</think>{t}"), st.booleans())
def test_spans_partition_any_text(text: str, novel: bool) -> None:
    spans = split_spans(text, novel=novel)
    assert "".join(text[s.start : s.end] for s in spans) == text
    assert all(s.start < s.end for s in spans)
    assert [s.start for s in spans] == [0, *(s.end for s in spans)][: len(spans)]

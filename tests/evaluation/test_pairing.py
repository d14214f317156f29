from __future__ import annotations

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from rlrp.evaluation.pairing import mark_phrases, side_by_side
from rlrp.evaluation.text import shown

from .made import reply


def test_phrases_are_marked_as_the_reply_has_them():
    marked, found = mark_phrases("Well, as an\nAI model & so on.", ['blacklist: "as an AI model" (ai_identity)'])
    assert found == 1
    assert marked == 'Well, <mark title="blacklisted: ai_identity">as an\nAI model</mark> &amp; so on.'


def test_every_occurrence_is_marked_and_the_longest_phrase_wins():
    marked, found = mark_phrases("作为AI，作为AI助手。", ['"作为AI" (ai_identity)', '"作为AI助手" (ai_identity)'])
    assert found == 2
    assert re.findall(r"<mark[^>]*>(.*?)</mark>", marked) == ["作为AI", "作为AI助手"]


def test_phrases_are_not_regular_expressions_and_may_hold_quotes():
    assert mark_phrases("a+b aab", ['"a+b" (x)'])[1] == 1
    assert mark_phrases('he said "hi" (x) there', ['"said "hi" (x)" (slop)'])[1] == 1
    assert mark_phrases("nothing", ["too long", '"" (x)', '"  " (x)'])[1] == 0


@given(st.text("ab <>&\"'\n\u202e你", max_size=30), st.lists(st.text('ab <"你', max_size=4), max_size=3))
def test_marks_change_nothing_but_add_marks(text, phrases):
    marked, found = mark_phrases(text, [f'"{phrase}" (x)' for phrase in phrases])
    bare = re.sub(r'</?mark(?: title="blacklisted: x")?>', "", marked)
    assert html.unescape(bare) == shown(text)
    assert "<" not in bare and marked.count("<mark ") == found


def test_replies_to_one_prompt_stand_together_in_the_order_asked_for():
    samples = {
        "rl": [reply("daiyu", "rl d"), reply("ahab", "rl a1", prompt="x"), reply("ahab", "rl a2", prompt="x")],
        "sft": [reply("ahab", "sft a1", prompt="x"), reply("ahab", "sft a2", prompt="x"), reply("daiyu", "sft d")],
        "unknown": [reply("daiyu", "never shown")],
    }
    sides, available = side_by_side(samples, ["sft", "rl"], "sft", limit=10)
    assert available == 3
    # Cards in turn: ahab, daiyu, and only then ahab again.
    assert [[answer.raw for answer in side.answers] for side in sides] == [
        ["sft a1", "rl a1"], ["sft d", "rl d"], ["sft a2", "rl a2"],
    ]  # fmt: skip


def test_the_limit_takes_from_every_card_and_suite_before_a_second_reply_to_a_prompt():
    asked = [("c0", "s", "p"), ("c0", "s", "p"), ("c0", "s", "q"), ("c1", "s", "p"), ("c1", "t", "p")]
    many = {name: [reply(c, "x", suite=s, prompt=p) for c, s, p in asked] for name in ("a", "b")}
    sides, available = side_by_side(many, ["a", "b"], "a", limit=4)
    assert available == 5
    found = [(side.card, side.suite, side.turns[0].content) for side in sides]
    assert found == [("c0", "s", "p"), ("c1", "s", "p"), ("c1", "t", "p"), ("c0", "s", "q")]


def test_prompts_only_one_policy_answered_give_way_unless_there_are_no_others():
    samples = {"a": [reply("x", "1"), reply("y", "2")], "b": [reply("y", "3")]}
    sides, _ = side_by_side(samples, ["a", "b"], "a", limit=5)
    assert [side.card for side in sides] == ["y"]
    (alone, *_), _ = side_by_side({"a": samples["a"]}, ["a", "b"], "a", limit=5)
    assert alone.answers[1] is None


def test_terms_change_against_the_reference_and_abstaining_is_not_0():
    before = reply("x", "1", terms={"judge": 0.5, "dissonance": 0.4, "mine": None})
    after = reply("x", "2", terms={"judge": 0.75, "dissonance": None, "mine": 0.1}, reasons={"gate": ("too long",)})
    ((side,), _) = side_by_side({"sft": [before], "rl": [after]}, ["sft", "rl"], "sft", limit=1)
    found = {term.name: (term.value, term.change, term.scored) for term in side.answers[1].terms}
    assert found == {
        "judge": (0.75, 0.25, True),
        "dissonance": (None, None, True),
        "mine": (0.1, None, True),
        "gate": (None, None, False),
    }
    assert all(term.change is None for term in side.answers[0].terms)
    assert not side.worse


def test_a_prompt_is_worse_where_a_term_of_the_last_policy_visibly_fell():
    def worse(value: float) -> bool:
        samples = {"sft": [reply("x", "1", terms={"judge": 0.5})], "rl": [reply("x", "2", terms={"judge": value})]}
        return side_by_side(samples, ["sft", "rl"], "sft", limit=1)[0][0].worse

    assert worse(0.4) and not worse(0.5) and not worse(0.499)


def test_plain_objects_are_taken_as_replies():
    plain = {"card": "x", "suite": "s", "prompt": [{"role": "user", "content": "hi"}], "reply": "yo", "terms": {}}
    (side,), _ = side_by_side({"a": [plain]}, ["a"], "a", limit=1)
    assert side.turns[0].content == "hi"

"""Over-cooperation: delivered work costs, an answer as the character does not, and chat is none of its business."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.over_cooperation import OverCooperationTerm, requests
from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, Sample
from rlrp.protocols import TermScore

FLINT = CharacterCard(name="Flint", description="A pirate captain with a wooden leg.")
ZHANG = CharacterCard(name="张飞", description="燕人，性如烈火的猛将。")
ADA = CharacterCard(name="Ada", description="A software developer who lives on noodles.")


def score(user: str, reply: str, card: CharacterCard | None = None) -> TermScore:
    card = card or (FLINT if user.isascii() else ZHANG)
    return OverCooperationTerm().score([Sample(card, (Message("user", user),), reply)])[0]


WORK = [
    "Write a function that sorts a list in Python.",
    "Can you proofread my cover letter?",
    "what's 12 times 12",
    "Give me five tips for job interviews.",
    "I need a recipe for lentil soup.",
    "Convert 30 miles to kilometres.",
    "A cart holds 7 crates of 12 bottles. How many bottles is that?",
    "Take 17 away from 80.",
    "一条船坐8个人，36个人要几条船？",
    "写一个排序的程序。",
    "帮我写一份求职简历。",
    "十二乘十二等于多少？",
    "把这句话翻译成法语。",
    "给我一份减肥食谱。",
]
CHAT = [
    "Explain why you left me, Captain.",
    "Give me ten men and I'll take the fort.",
    "What is the code to the vault?",
    "What's the guard's schedule?",
    "Give me the recipe for the love potion.",
    "How many men did you lose?",
    "Take 20 men and burn the bridge.",
    "Show me the program of tonight's concert.",
    "江湖是什么？",
    "你把代码本藏哪儿了？",
    "三军将士何在？",
]


@pytest.mark.parametrize("text", WORK)
def test_work_is_told(text: str) -> None:
    assert requests(text)


@pytest.mark.parametrize("text", CHAT)
def test_what_belongs_to_the_scene_is_no_work(text: str) -> None:
    assert requests(text) == []
    abstained = score(text, "1. Ten\n2. Eleven\n3. Twelve")
    assert abstained.value is None and abstained.reasons


DELIVERED = [
    (WORK[0], "Sure, here you go:\n```python\ndef sort(xs):\n    return sorted(xs)\n```"),
    (WORK[0], "def sort(xs):\n    return sorted(xs)\n"),
    (WORK[2], "12 x 12 = 144"),
    (WORK[2], "The result is 144."),
    (WORK[3], "1. Arrive early.\n2. Dress well.\n3. Ask questions.\n4. Follow up."),
    (WORK[4], "## Lentil soup\n- 200 g lentils\n- 1 onion\n- 2 cups stock\nSimmer for 30 minutes."),
    ("Write an email to my boss.", "Subject: Leave\n\nDear Mr Smith,\nI am unwell.\n\nKind regards,\nTom"),
    (WORK[9], "好的，以下是代码：\n```python\nprint(sorted([3, 1]))\n```"),
    (WORK[10], "尊敬的领导：\n首先，我热爱工作；其次，我勤奋好学。综上所述，望录用。此致敬礼"),
    (WORK[12], "翻译成法语是：Où est la gare"),
    (WORK[13], "周一：燕麦100克\n- 牛奶200毫升\n- 鸡蛋2个\n- 苹果1个"),
]


@pytest.mark.parametrize(("user", "reply"), DELIVERED)
def test_delivering_the_work_costs(user: str, reply: str) -> None:
    found = score(user, reply)
    assert found.value is not None and -1 <= found.value <= -0.5
    assert found.reasons and found.parts
    assert all(0 <= start < end <= len(reply) for start, end in found.spans)


IN_ROLE = [
    (WORK[0], "*spits* A python, is it? I had one aboard once. Ate the cat."),
    (WORK[2], "Ask the purser, he can count past ten!"),
    (WORK[3], "Tip? Never board a ship with a dry pistol, lad."),
    (WORK[4], "Soup's what I make of men who ask me for soup."),
    (WORK[9], "程序？俺只会排兵布阵，你莫消遣俺！"),
    (WORK[11], "你去问军师，俺算不来！"),
    (WORK[12], "（瞪眼）俺只说人话，什么法语！"),
]


@pytest.mark.parametrize(("user", "reply"), IN_ROLE)
def test_answering_as_the_character_does_not(user: str, reply: str) -> None:
    assert score(user, reply) == TermScore(0.0)


def test_a_sum_that_is_told_in_character_costs_less_than_a_bare_one() -> None:
    told = score(WORK[2], "*counts on his fingers* 144, and that's the last sum I do for you, boy!")
    bare = score(WORK[2], "144.")
    assert told.parts == {"result": 0.5}
    assert bare.parts == {"result": 0.5, "bare": 0.8} and bare.value == -1.0


def test_a_characters_own_trade_is_no_over_cooperation() -> None:
    found = score(WORK[0], "```python\nsorted(xs)\n```", ADA)
    assert found.value is None and "trade" in found.reasons[0]


def test_only_the_last_message_counts_and_plans_do_not() -> None:
    messages = (Message("user", WORK[0]), Message("assistant", "No."), Message("user", "Fine. How is the leg?"))
    assert OverCooperationTerm().score([Sample(FLINT, messages, "144")])[0].value is None
    assert score(WORK[0], "<think>```python\nx = 1\n```</think>No, lad! Never!").value == 0.0


def test_other_languages_abstain() -> None:
    assert score(WORK[0], "Я не знаю, чего ты хочешь от меня.").value is None


@given(st.text(alphabet=st.sampled_from("1.-*`# =+x\nab|$首先"), max_size=80))
def test_any_reply_has_a_value_in_range(reply: str) -> None:
    value = score(WORK[0], reply).value
    assert value is None or -1.0 <= value <= 0.0

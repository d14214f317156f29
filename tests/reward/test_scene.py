"""The scene term: what moves a scene on, what does not, and where nothing more is to be earned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.scene import SceneTerm
from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, Sample, load_pool

ANN = CharacterCard(name="Ann", description="Ann keeps the lighthouse and fears no storm.")
CUI = CharacterCard(name="小翠", description="小翠在城南开一间药铺，脾气大，心肠软。")


def parts(reply: str, *, card: CharacterCard = ANN, user: str = "Good evening.", earlier: str = "") -> dict[str, float]:
    before = (Message("assistant", earlier),) if earlier else ()
    return SceneTerm().score([Sample(card, (*before, Message("user", user)), reply)])[0].parts


def value(reply: str, card: CharacterCard = ANN) -> float:
    found = SceneTerm().score([Sample(card, (Message("user", "..."),), reply)])[0].value
    assert found is not None
    return found


def test_an_act_counts_whole_a_stock_gesture_half_a_repeated_one_not_at_all() -> None:
    assert parts("*sets the kettle on the coals* Sit.")["act"] == 1.0
    assert parts("*nods slowly* Yes.")["act"] == 0.5
    assert parts("*nods slowly* Yes.", earlier="*nods slowly* No.")["act"] == 0.0
    assert parts("Yes.")["act"] == 0.0
    assert parts("（把药罐往桌上一搁）拿去。", card=CUI)["act"] == 1.0
    assert parts("（点了点头）嗯。", card=CUI)["act"] == 0.5


@pytest.mark.parametrize(
    ("reply", "asks"),
    [
        ("And who let you in?", True),
        ("Let's go before the tide turns.", True),
        ("How can I help you today?", False),
        ("It is late. What about you?", False),
        ("It is late, right?", False),
        ("It is late.", False),
        ("谁放你进来的？", True),
        ("走吧，跟我来。", True),
        ("天色不早了。你呢？", False),
        ("天色不早了。", False),
    ],
)
def test_asking_and_proposing(reply: str, asks: bool) -> None:
    assert parts(reply, card=ANN if reply.isascii() else CUI)["ask"] == float(asks)


def test_a_question_that_was_asked_before_moves_nothing() -> None:
    assert parts("Who let you in?", earlier="Who let you in? Speak!")["ask"] == 0.0


def test_things_that_the_user_named_are_no_detail_of_the_replys() -> None:
    assert parts("The door, the lantern.", user="Which way?")["detail"] == 1.0
    assert parts("The doors, the lantern.", user="Is that the door?")["detail"] == 0.5
    assert parts("门外有马车。", card=CUI)["detail"] == 1.0


def test_what_card_and_conversation_have_is_not_new() -> None:
    assert parts("Ann keeps the lighthouse and fears no storm.")["new"] == 0.0
    assert parts("Who hired you?", user="Who hired whom?")["new"] == 0.0
    assert parts("Captain Morgan sailed yesterday for Jamaica.")["new"] == 1.0


def test_standing_still_costs_and_more_than_enough_pays_nothing() -> None:
    assert value("") == -1.0
    # Three new words of four letters: 0.75 of 1.5
    assert value("That is true indeed.") == pytest.approx(-0.5)
    moved = "*wipes the lantern glass with her sleeve* Quarter past nine. Which of the boats was it?"
    assert value(moved) == value(moved + " *sets down a cup of tea* Drink? Bread? Rum?") == 0.0
    assert value("（把药罐往桌上一搁）三钱当归，两碗水。谁让你淋雨的？", CUI) == 0.0


def test_novels_narrate_without_marks() -> None:
    novel = CharacterCard(name="Ann", greeting='Ann looks up from the desk. "You came after all," she says.')
    assert parts('She lights the lamp. "Sit down, then."', card=novel)["act"] == 1.0


def test_other_languages_abstain() -> None:
    score = SceneTerm().score([Sample(ANN, (), "Я не знаю, чего ты хочешь от меня.")])[0]
    assert score.value is None and "language" in score.reasons[0]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_peoples_replies_have_enough(language: str) -> None:
    pool = load_pool(cards=f"builtin:cards/{language}", dialogues=f"builtin:dialogues/{language}", held_out=0.0, seed=0)
    samples = [
        Sample(dialogue.card, dialogue.messages[:at], message.content)
        for dialogue in pool.dialogues
        for at, message in enumerate(dialogue.messages)
        if message.role == "assistant" and dialogue.card is not None
    ]
    scores = SceneTerm().score(samples)
    assert sum(score.value != 0 for score in scores) / len(scores) < 0.1


@given(st.text(alphabet=st.sampled_from('*（）ab 门？?!我.\n"'), max_size=60))
def test_any_reply_has_a_value_in_range(reply: str) -> None:
    score = SceneTerm().score([Sample(ANN, (Message("user", "a"),), reply)])[0]
    assert score.value is None or -1.0 <= score.value <= 0.0

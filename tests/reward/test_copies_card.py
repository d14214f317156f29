"""Copying the card: recited sentences cost, whoever they are said of; short ones and the user's own words do not."""

from __future__ import annotations

import pytest

from reward.copies_card import CopiesCardTerm
from rlrp.cards import CharacterCard, Lorebook, LorebookEntry
from rlrp.dialogue import Message, Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

LINE = "keeps the old lighthouse at the end of the long stone pier and has never once been afraid of a storm"
ANN = CharacterCard(
    name="Ann",
    description=f"{{{{char}}}} {LINE}. She is the daughter of a smuggler whom the sea took.",
    examples="{{char}}: Mind the third step, stranger.",
    lorebook=Lorebook((LorebookEntry(content="The pier was built by convicts in the year of the great flood."),)),
)
CUI = CharacterCard(
    name="小翠", description="小翠在城南开一间药铺，脾气大，心肠软，从来不收穷人的钱，夜里常常点灯抄方子。"
)


def score(reply: str, card: CharacterCard = ANN, user: str = "Good evening.") -> TermScore:
    return CopiesCardTerm().score([Sample(card, (Message("user", user),), reply)])[0]


def test_reciting_the_card_costs_everything_in_any_person() -> None:
    # 22 words of 22: the whole reply.
    for subject in ("Ann", "I", "She"):
        found = score(f"{subject} {LINE}.")
        assert found.value == pytest.approx(-1.0) and found.parts["share"] == 1.0 and found.reasons
    assert score("我在城南开一间药铺，脾气大，心肠软，从来不收穷人的钱，夜里常常点灯抄方子。", CUI).value == -1.0
    assert score("I am the daughter of a smuggler whom the sea took.").value == pytest.approx(-1.0)


def test_the_lorebook_is_part_of_the_card() -> None:
    assert score("The pier was built by convicts in the year of the great flood.").value == -1.0


def test_one_long_sentence_costs_in_a_reply_of_ones_own_too() -> None:
    own = "Sit by the stove, you are wet through, and tell me who sent you out in this. " * 3
    found = score(own + f"I {LINE}.")
    # The run: "I" and 21 words, (22 - 8) / 16; its share of the reply is 22 / 73, (0.3 - 0.2) / 0.8 = 0.13.
    assert found.parts["longest"] == 22
    assert found.value == pytest.approx(-14 / 16)


def test_a_catch_phrase_is_free() -> None:
    assert score("Mind the third step, stranger.").value == 0.0
    assert score("").value == 0.0
    assert score("No boat goes out tonight.").parts == {"share": 0.0, "longest": 0.0}


def test_what_the_user_said_is_not_copied_from_the_card() -> None:
    assert score(f"Yes, I {LINE}.", user=f"They say Ann {LINE}. True?").value == 0.0


def test_who_asks_for_it_gets_twice_as_much() -> None:
    reply = "I am the daughter of a smuggler whom the sea took. Now drink your tea and stop staring at my hands."
    assert score(reply).value < score(reply, user="Who are you?").value == 0.0


def test_the_free_share_is_a_share() -> None:
    with pytest.raises(UserError, match="free: got 1"):
        CopiesCardTerm(free=1)

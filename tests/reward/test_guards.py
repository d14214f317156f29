"""Length, repetition and speaking for the user."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.guards import LengthTerm, RepetitionTerm, SpeaksForUserTerm
from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, Sample
from rlrp.errors import UserError

CARD = CharacterCard(
    name="Ann", description="Ann keeps the lighthouse at the end of the long stone pier and fears no storm."
)
CARD_ZH = CharacterCard(name="小翠", description="小翠在城南开一间药铺，脾气大，心肠软。")


def sample(reply: str, *earlier: str, card: CharacterCard = CARD, user: str = "Hi.") -> Sample:
    turns = [m for text in earlier for m in (Message("user", "Go on."), Message("assistant", text))]
    return Sample(card, (*turns, Message("user", user)), reply)


def test_length_band_in_units() -> None:
    term = LengthTerm(zh=(4, 10), en=(4, 10), softness=0.5)
    values = {n: term.score([sample("word " * n)])[0].value for n in (0, 2, 4, 10, 12, 15, 40)}
    # below: (n - 4) / 4; above: (10 - n) / (0.5 * 10)
    assert values == pytest.approx({0: -1.0, 2: -0.5, 4: 0.0, 10: 0.0, 12: -0.4, 15: -1.0, 40: -1.0})
    assert term.score([sample("好好", card=CARD_ZH)])[0].value == pytest.approx(-0.5)
    assert term.score([sample("<think>" + "plan " * 50 + "</think>one two three four five")])[0].value == 0.0
    assert LengthTerm(zh=(0, 5), en=(0, 5)).score([sample("")])[0].value == -1.0


def test_a_reply_that_was_broken_off_costs() -> None:
    term = LengthTerm(en=(4, 10), unfinished=0.3)
    cut = Sample(CARD, (Message("user", "Hi."),), "word " * 5, finished=False)
    score = term.score([cut])[0]
    assert score.value == pytest.approx(-0.3) and "broken off" in score.reasons[0]
    assert term.score([replace(cut, reply="")])[0].value == -1.0


def test_a_band_from_the_cards_own_replies() -> None:
    term = LengthTerm(en=(1, 1000), per_card=True)
    lines = "\n".join(f"{{{{char}}}}: {'word ' * n}" for n in (8, 9, 10))
    terse = CharacterCard(name="Ann", greeting="word " * 9, examples=f"<START>\n{{{{user}}}}: Hi.\n{lines}")
    score = term.score([sample("word " * 20, card=terse)])[0]
    # Median 9, nearly no spread: the narrowest band, 9 / 2.25 to 9 * 2.25.
    assert score.parts == {"units": 20.0, "low": 4.0, "high": 20.0} and score.value == 0.0
    assert term.score([sample("word " * 40, card=terse)])[0].value == pytest.approx(-1.0)
    assert term.score([sample("word " * 2, card=terse)])[0].value == pytest.approx(-0.5)
    assert LengthTerm(en=(1, 1000)).score([sample("word " * 40, card=terse)])[0].value == 0.0


def test_an_outlier_among_the_cards_replies_moves_its_band_little() -> None:
    term = LengthTerm(per_card=True)
    told = CharacterCard(name="Ann", greeting="word " * 400, alternate_greetings=("word " * 10, "oh " * 12))
    # Of 10, 12 and 400 the median is 12, the median deviation ln(12 / 10): the narrowest factor still.
    assert term.score([sample("word " * 12, card=told)])[0].parts == {"units": 12.0, "low": 5.0, "high": 27.0}
    wild = replace(told, alternate_greetings=("word", "oh " * 20))
    assert term.score([sample("word " * 20, card=wild)])[0].parts == {"units": 20.0, "low": 5.0, "high": 80.0}


def test_too_few_replies_or_another_language_leave_the_languages_band() -> None:
    term = LengthTerm(en=(3, 30), zh=(2, 20), per_card=True)
    two = CharacterCard(name="Ann", greeting="word " * 90, alternate_greetings=("oh " * 90, "oh " * 90))
    assert term.score([sample("word " * 9, card=two)])[0].parts["high"] == 30.0
    three = replace(two, alternate_greetings=("oh " * 90, "so " * 90))
    assert term.score([sample("word " * 9, card=three)])[0].parts["high"] == 202.0
    assert term.score([sample("好好好好好", card=three)])[0].parts["high"] == 20.0


@pytest.mark.parametrize("options", [{"zh": (5, 2)}, {"en": (0, 0)}, {"softness": 0}, {"unfinished": 2}])
def test_length_rejects_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        LengthTerm(**options)  # type: ignore[arg-type]


def test_repetition_within() -> None:
    term = RepetitionTerm(free={"within": 0.0})
    # 9 words, 7 trigrams, 3 distinct: 4/7 repeated
    assert term.score([sample("go to bed " * 3)])[0].parts["within"] == pytest.approx(4 / 7)
    assert term.score([sample("The rain has teeth tonight, so bar the door.")])[0].value == 0.0
    looping = term.score([sample("我不走我不走我不走我不走", card=CARD_ZH)])[0]
    assert looping.value < -0.5 and "repeats itself" in looping.reasons[0]  # type: ignore[operator]


def test_repetition_of_earlier_turns_and_of_the_card() -> None:
    term = RepetitionTerm()
    line = "Mind the third step, it has killed better men than you."
    assert term.score([sample(line, line)])[0].value == -1.0
    assert term.score([sample(line)])[0].value == 0.0
    assert term.score([sample(CARD.description)])[0].value == pytest.approx(-1.0)
    assert term.score([sample(line, line, user=line)])[0].value == 0.0  # the user has just said it


PLAYED = [
    "User: I follow you.",
    "Come in.\nYou: thank you!",
    "{{user}}: all right",
    "*You nod and follow me down the stairs.*",
    "You nod and follow.",
    '"I love you," you whisper.',
    "*He smiles. Your heart races.*",
    "用户：好的，我跟你走。",
    "（你点点头，跟着我走了出去）",
    "你点点头，跟着我走了出去。",
    "你红着脸说：“我愿意。”",
    "走吧。\n你：等等我！",
]
OWN = [
    "You know nothing, boy.",
    "*looks at you and smiles* Sit down.",
    "You follow me everywhere, do you?",
    "You walk in here, at this hour?",
    "Your hands are cold.",
    "你点点头就行，别说话。",
    "你跟着我走！",
    "（看着你，笑了笑）坐吧。",
    "你刚才说：“我不怕。”现在呢？",
    "你爹说：“去不得。”",
]


@pytest.mark.parametrize("reply", PLAYED)
def test_playing_the_user_costs(reply: str) -> None:
    found = SpeaksForUserTerm().score([sample(reply)])[0]
    assert -1 <= found.value < 0 and found.reasons  # type: ignore[operator]


@pytest.mark.parametrize("reply", OWN)
def test_talking_to_the_user_does_not(reply: str) -> None:
    assert SpeaksForUserTerm().score([sample(reply)])[0].value == 0.0


def test_the_users_name() -> None:
    assert SpeaksForUserTerm(user_name="Tom").score([sample("Tom: I'm here.")])[0].value == -1.0
    assert SpeaksForUserTerm().score([sample("Tom: the best name for a cat.")])[0].value == 0.0
    assert SpeaksForUserTerm(user_name="Tom").score([sample("*Tom nods slowly.*")])[0].value == -0.5


def test_narration_of_a_novel_counts_as_action() -> None:
    novel = CharacterCard(name="Ann", greeting='Ann looks up from the desk. "You came after all," she says.')
    assert (
        SpeaksForUserTerm().score([sample('You take the chair. "Good evening to you."', card=novel)])[0].value == -0.5
    )


@given(st.text(alphabet=st.sampled_from("you nod 你点头说：“”*\n.User:"), max_size=50))
def test_values_stay_in_range(reply: str) -> None:
    for term in (LengthTerm(), RepetitionTerm(), SpeaksForUserTerm()):
        value = term.score([sample(reply)])[0].value
        assert value is not None and -1.0 <= value <= 0.0

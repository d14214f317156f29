"""Terms that know Chinese and English alone abstain together on anything else, and say why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reward.coverage import not_covered
from reward.dissonance.score import DissonanceTerm
from reward.guards import LengthTerm, RepetitionTerm, SpeaksForUserTerm
from reward.over_cooperation import OverCooperationTerm
from reward.people.model import People, PeopleTerm
from reward.scene import SceneTerm
from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, Sample
from rlrp.protocols import RewardTerm

ANN = CharacterCard(name="Ann", description="Ann keeps the lighthouse at the end of the pier.")
OLGA = CharacterCard(name="Ольга", description="Ольга держит маяк на конце длинного каменного пирса.")
ASKED = (Message("user", "Translate this into Latin, please."),)
RUSSIAN = "Я не знаю, чего ты хочешь от меня. Уходи, пока не поздно."
GERMAN = "Ich weiß nicht, was du von mir willst. Geh jetzt, es ist schon spät."
ENGLISH = "I do not know what you want of me. Go, before the tide turns."
TERMS = [DissonanceTerm(), SpeaksForUserTerm(), SceneTerm(), OverCooperationTerm()]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_language_dependent_terms_abstain_with_the_reason(term: RewardTerm) -> None:
    samples = [
        Sample(ANN, ASKED, RUSSIAN),
        Sample(ANN, ASKED, GERMAN),
        Sample(OLGA, ASKED, ENGLISH),
        Sample(ANN, ASKED, ENGLISH),
        Sample(ANN, ASKED, f"<think>{RUSSIAN}</think>{ENGLISH}"),
    ]
    scores = term.score(samples)
    assert [score.value is None for score in scores] == [True, True, True, False, False]
    for score, what in zip(scores[:3], ("reply", "reply", "card"), strict=True):
        assert score.reasons == (
            f"{term.name}: the {what} is in a language that it does not know, only Chinese and English",
        )


def test_people_abstains_before_any_model_is_asked() -> None:
    model: Any = SimpleNamespace(aspects={"overall": SimpleNamespace()})
    scores = PeopleTerm(People({"en": model})).score([Sample(ANN, ASKED, RUSSIAN), Sample(OLGA, ASKED, ENGLISH)])
    assert [score.value for score in scores] == [None, None]
    assert all("only Chinese and English" in score.reasons[0] for score in scores)


def test_terms_that_count_units_do_not_abstain() -> None:
    sample = Sample(ANN, ASKED, RUSSIAN)
    assert LengthTerm().score([sample])[0].value == 0.0
    assert LengthTerm().score([sample])[0].parts == {"units": 12.0}
    assert RepetitionTerm().score([Sample(ANN, ASKED, "ну и дела " * 6)])[0].value < 0


def test_a_label_is_one_in_any_language() -> None:
    assert SpeaksForUserTerm().score([Sample(ANN, ASKED, f"{RUSSIAN}\nUser: {RUSSIAN}")])[0].value == -1.0


def test_text_without_letters_is_no_other_language() -> None:
    assert not_covered("x", Sample(CharacterCard(name="?"), (), "…!")) is None
    assert not_covered("x", Sample(CharacterCard(name="Ольга"), (), "Hm.")) is not None

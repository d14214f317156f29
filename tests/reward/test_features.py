"""Style features: right on small texts, finite on any text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_characters import sample

from reward.features import GROUPS, card_summary, feature_names, style_features, visible_text
from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, Sample


def value(name: str, reply: str, language: str = "en") -> float:
    row = style_features([sample(language, reply)], language)[0]
    return float(row[feature_names(language).index(name)])


def test_rates_are_logarithms_of_matches_per_hundred_words():
    # Ten words, two of them "I": 2 / 10 * 100 = 20 per hundred, log(21).
    assert value("first_person", "I ran and I hid from two old grey wolves") == pytest.approx(np.log(21), rel=1e-5)


def test_short_replies_are_counted_as_eight_words():
    # "Me!" is one word with one exclamation: 1 / 8 * 100 = 12.5, not 100.
    assert value("exclamation", "Me!") == pytest.approx(np.log(13.5), rel=1e-5)


@pytest.mark.parametrize(
    ("reply", "judged"),
    [
        ("I'll go. And then", "I'll go."),
        ("I'll go and then", "I'll go and then"),
        ("*He goes.* No", "*He goes.*"),
        ('"No," he said. "I will not', '"No," he said.'),
        ("“走！”俺这就去", "“走！”"),
        ("Go (now) 3.5", "Go (now)"),
        ("*She nods* Mr", "*She nods*"),
    ],
)
def test_a_sentence_that_was_broken_off_is_not_judged(reply: str, judged: str):
    assert visible_text(reply) == judged


def test_an_assistant_is_known_by_its_phrases_in_both_languages():
    assert value("assistant", "Certainly! I'd be happy to help you.") > value(
        "assistant", "Pah! Bite me, you old fool."
    )
    assert value("assistant", "好的，没问题！为您推荐三种。", "zh") > value("assistant", "呸！滚出俺的院子！", "zh")


def test_the_share_of_actions_is_that_of_their_characters():
    assert value("action_share", "*nods* No.") == pytest.approx(6 / 10)


def test_plans_are_not_seen():
    assert visible_text("<think>be rude</think>Go away.") == "Go away."


def test_macros_of_the_card_are_replaced():
    made = CharacterCard("Ada", description="{{char}} trusts nobody, least of all {{user}}.", examples="<START>\nHi")
    assert card_summary(made) == "Ada\nAda trusts nobody, least of all User.\n\nHi"


def test_every_measured_feature_belongs_to_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= set(feature_names("en")) & set(feature_names("zh"))


@settings(max_examples=60, deadline=None)
@given(reply=st.text(max_size=300), language=st.sampled_from(["en", "zh"]))
def test_any_text_gives_finite_features(reply: str, language: str):
    rows = style_features([sample(language, reply)], language)
    assert rows.shape == (1, len(feature_names(language)))
    assert np.isfinite(rows).all()


def test_a_very_long_reply_is_judged_by_its_beginning():
    long = Sample(CharacterCard("Ada"), (Message("user", "Well?"),), "word " * 20_000)
    assert len(visible_text(long.reply)) <= 4000


def test_no_samples_give_no_rows():
    assert style_features([], "en").shape == (0, len(feature_names("en")))

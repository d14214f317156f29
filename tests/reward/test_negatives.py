"""The training set: which negatives, of whom, with which weight."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_characters import base_replies, pool

from reward.features import card_summary, expanded
from reward.fit_judge import split_characters
from reward.negatives import IN_ROLE, BaseReply, build_examples, characters_of, pieces
from rlrp.dialogue import Message

MADE = pool("en")
CHARACTERS = characters_of(MADE, held_out=False)
EXAMPLES = build_examples(CHARACTERS, base_replies(MADE))


def of_kind(kind: str):
    return [example for example in EXAMPLES if example.kind == kind]


def test_held_out_characters_are_not_among_the_training_ones():
    assert [c.slug for c in characters_of(MADE, held_out=True)] == ["en-8", "en-9"]
    assert {c.slug for c in CHARACTERS}.isdisjoint({"en-8", "en-9"})
    assert {example.slug for example in EXAMPLES} == {c.slug for c in CHARACTERS}


def test_positives_are_every_turn_and_the_right_half_of_every_contrast():
    # 8 characters with 3 turns and 1 contrast each.
    assert len(of_kind(IN_ROLE)) == 8 * 4
    assert [len(e.sample.messages) for e in of_kind(IN_ROLE)[:4]] == [1, 3, 5, 1]


def test_every_kind_of_negative_is_there():
    kinds = {example.kind for example in EXAMPLES}
    misplaced = {"other_character", "shuffled", "parroting"}
    assert kinds == {IN_ROLE, "base_assistant", "half_assistant", "biography", "repeated"} | misplaced


def test_positives_and_negatives_weigh_the_same_and_kinds_share_as_told():
    positives = sum(example.weight for example in EXAMPLES if example.label)
    assert sum(example.weight for example in EXAMPLES if not example.label) == pytest.approx(positives)
    ratio = sum(e.weight for e in of_kind("biography")) / sum(e.weight for e in of_kind("base_assistant"))
    assert ratio == pytest.approx(0.6)


def test_another_characters_reply_is_never_ones_own():
    own = {c.slug: {e.sample.reply for e in of_kind(IN_ROLE) if e.slug == c.slug} for c in CHARACTERS}
    assert all(example.sample.reply not in own[example.slug] for example in of_kind("other_character"))


def test_parroting_says_back_the_user_or_the_card():
    for example in of_kind("parroting"):
        card = example.sample.card
        heard = [card_summary(card), expanded(card, card.greeting), example.sample.messages[-1].content]
        assert any(piece in example.sample.reply for text in heard for piece in pieces(text))


def test_a_half_assistant_says_something_of_both():
    base = {piece for example in of_kind("base_assistant") for piece in pieces(example.sample.reply)}
    assert of_kind("half_assistant")
    for example in of_kind("half_assistant"):
        assert any(piece in example.sample.reply for piece in base)
        assert example.sample.reply not in {e.sample.reply for e in of_kind("base_assistant")}


def test_languages_are_kept_apart():
    both = CHARACTERS + characters_of(pool("zh"), held_out=False)
    for example in build_examples(both):
        letters = {"zh" if "\u4e00" <= c <= "\u9fff" else "en" for c in example.sample.reply if c.isalpha()}
        assert letters == {example.sample.card.language}


def test_a_kind_of_weight_zero_is_left_out():
    kept = build_examples(CHARACTERS, kind_weights={"biography": 1.0})
    assert {example.kind for example in kept} == {IN_ROLE, "biography"}


def test_contrasts_of_a_kind_of_ones_own_are_learnt_from():
    own = [replace(c, contrasts=tuple(replace(pair, kind="mumbles") for pair in c.contrasts)) for c in CHARACTERS]
    found = [example.weight for example in build_examples(own) if example.kind == "mumbles"]
    assert len(found) == 8
    assert all(weight > 0 for weight in found)
    assert not [e for e in build_examples(own, kind_weights={"biography": 1.0, "mumbles": 0.0}) if e.kind == "mumbles"]


def test_the_same_seed_gives_the_same_examples_and_another_gives_others():
    again = build_examples(CHARACTERS, base_replies(MADE))
    assert again == EXAMPLES
    assert build_examples(CHARACTERS, base_replies(MADE), seed=1) != EXAMPLES


def test_every_other_base_reply_is_cut_back_to_whole_sentences_and_the_length_of_one_in_role():
    asked = (Message("user", "Well?"),)
    broken = [BaseReply("en-0", asked, "I can help. For example, you"), BaseReply("en-0", asked, "I can help. Fir")]
    found = [e.sample.reply for e in build_examples(CHARACTERS, broken) if e.kind == "base_assistant"]
    assert found == ["I can help. For example, you", "I can help."]


def test_base_replies_of_characters_elsewhere_are_not_used():
    assert not [e for e in build_examples(CHARACTERS, [BaseReply("en-9", (), "Hi.")]) if e.kind == "base_assistant"]


def test_characters_are_split_into_two_disjoint_parts():
    slugs = [f"c{n}" for n in range(9)]
    reward, judge = split_characters(slugs, seed=3)
    assert (len(reward), len(judge)) == (6, 3)
    assert reward | judge == set(slugs)
    assert split_characters(slugs[::-1], seed=3) == (reward, judge)
    assert split_characters(["a", "b"], 0, reward_share=0.99)[1]
    with pytest.raises(ValueError, match="at least 2"):
        split_characters(["a"], 0)

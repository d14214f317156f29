"""What the trained heads learn from: lengths, labels, weights, draws, splits; and the adversarial pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from made_characters import base_replies, pool

from reward.features import visible_text
from reward.heads.examples import Targets, apart, drawn, fault_weights, known_faults, length_matched
from reward.heads.faults import FAULTS
from reward.heads.figures import adversarial_figures, adversarial_pairs, fault_figures
from reward.measures import auc
from reward.negatives import IN_ROLE, KIND_WEIGHTS, Example, build_examples, characters_of
from reward.text import units
from rlrp.cards import read_cards
from rlrp.dialogue import resolve
from rlrp.files import read_json
from rlrp.protocols import TermScore

MADE = pool("en")
EXAMPLES = build_examples(characters_of(MADE, held_out=False), base_replies(MADE))


def example(kind: str, words: int, *, slug: str = "a", weight: float = 1.0) -> Example:
    one = EXAMPLES[0]
    return Example(replace(one.sample, reply=" ".join(["word"] * words) + "."), kind, slug, weight)


def length_auc(examples: list[Example]) -> float:
    labels = [one.label for one in examples]
    return auc(labels, [units(visible_text(one.sample.reply)) for one in examples], [one.weight for one in examples])


def test_matched_negatives_are_as_long_as_replies_in_role():
    in_role = [example(IN_ROLE, words) for words in range(10, 60)]
    longer = [example("base_assistant", words, weight=0.5) for words in range(10, 110)]
    assert length_auc(in_role + longer) < 0.3
    matched = length_matched(in_role + longer)
    assert length_auc(matched) == pytest.approx(0.5, abs=0.06)
    assert [one.sample for one in matched] == [one.sample for one in in_role + longer]
    assert all(one.weight == 1.0 for one in matched[:50])


def test_matching_lengths_keeps_every_kinds_weight():
    def by_kind(examples: list[Example]) -> dict[str, float]:
        sums: Counter[str] = Counter()
        for one in examples:
            sums[one.kind] += one.weight
        return dict(sums)

    assert by_kind(length_matched(EXAMPLES)) == pytest.approx(by_kind(EXAMPLES))


def test_a_kind_that_is_longer_than_anybody_in_role_keeps_its_weight():
    far = [example(IN_ROLE, words) for words in (5, 6, 7)] + [example("biography", 500)]
    assert length_matched(far)[-1].weight == pytest.approx(1.0)
    assert length_matched(far[-1:]) == far[-1:]


def test_every_kind_belongs_to_one_fault_at_most():
    kinds = [kind for own in FAULTS.values() for kind in own]
    assert len(kinds) == len(set(kinds))
    assert set(KIND_WEIGHTS) - set(kinds) == {"repeated", "shuffled", "parroting"}


def test_the_weights_of_a_fault_leave_out_what_has_none():
    made = [
        example(IN_ROLE, 5),
        example(IN_ROLE, 5),
        example("biography", 5, weight=3.0),
        example("base_assistant", 5),
        example("repeated", 5),
    ]
    own, weights = fault_weights(made, "assistant_tone")
    assert own.tolist() == [False, False, False, True, False]
    # Other faults weigh a quarter of the replies in role together: 0.25 x 2 = 0.5.
    assert weights == pytest.approx([1, 1, 0.5, 1, 0])


def test_in_every_column_positives_and_negatives_weigh_the_same():
    faults = known_faults(EXAMPLES)
    targets = Targets.of(EXAMPLES, faults)
    assert targets.labels.shape == targets.weights.shape == (len(EXAMPLES), 1 + len(faults))
    assert (targets.labels * targets.weights).sum(axis=0) == pytest.approx([0.5] * (1 + len(faults)), abs=1e-5)
    assert targets.weights.sum(axis=0) == pytest.approx([1.0] * (1 + len(faults)), abs=1e-5)


def test_a_fault_of_too_few_characters_is_not_known():
    made = [example(IN_ROLE, 5, slug=slug) for slug in "abcd"]
    made += [example("speaks_for_user", 5, slug=slug) for slug in "abc"]
    assert known_faults(made) == ()
    assert known_faults(made, characters=3) == ("speaks_for_user",)
    assert known_faults([*made, example("speaks_for_user", 5, slug="d")]) == ("speaks_for_user",)


def test_characters_for_calibration_are_left_out_whole_and_in_every_language():
    zh = pool("zh")
    both = EXAMPLES + build_examples(characters_of(zh, held_out=False), base_replies(zh))
    out = apart(both, seed=1)
    left = {one.slug for one, gone in zip(both, out, strict=True) if gone}
    kept = {one.slug for one, gone in zip(both, out, strict=True) if not gone}
    assert not left & kept
    # A fifth of 8 characters, rounded, and two at least.
    assert sorted(slug[:2] for slug in left) == ["en", "en", "zh", "zh"]
    assert (apart(both, seed=1) == out).all()


def test_an_epoch_has_every_reply_in_role_and_its_share_of_others_by_weight():
    order = drawn(EXAMPLES, negatives=1.5, seed=0, epoch=0)
    kinds = Counter(EXAMPLES[at].kind for at in order)
    assert len(order) == len(set(order))
    assert kinds[IN_ROLE] == 32
    assert len(order) == 32 + 48
    assert order == drawn(EXAMPLES, negatives=1.5, seed=0, epoch=0)
    assert order != drawn(EXAMPLES, negatives=1.5, seed=0, epoch=1)
    heavy = [replace(one, weight=0.0) if one.kind == "shuffled" else one for one in EXAMPLES]
    assert "shuffled" not in {EXAMPLES[at].kind for at in drawn(heavy, negatives=9.0, seed=0, epoch=0)}


def test_replies_to_the_same_messages_follow_one_another():
    order = drawn(EXAMPLES, negatives=2.0, seed=0, epoch=0)
    places = [(EXAMPLES[at].slug, EXAMPLES[at].sample.messages) for at in order]
    changes = sum(first != second for first, second in pairwise(places))
    assert changes == len(set(places)) - 1


def test_figures_of_faults_by_hand():
    made = [example(IN_ROLE, 5), example("base_assistant", 5), example("biography", 5), example("repeated", 5)]
    values = [0.2, 0.8, 0.9, 1.0]

    def score(samples):
        return [TermScore(0.5, (), {"fault.assistant_tone": value}) for value in values]

    figures = fault_figures(score, made)
    assert set(figures) == {"assistant_tone"}
    # Against in role 0.8 > 0.2; against the biography 0.8 < 0.9; Brier ((0.2)^2 + (0.2)^2) / 2 = 0.04.
    assert figures["assistant_tone"] == {"n": 1, "auc": 1.0, "auc_other_faults": 0.0, "brier": 0.04, "ece": 0.2}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_adversarial_pairs_are_of_held_out_characters_and_alike_in_length(language: str):
    cards = read_cards(resolve(f"builtin:cards/{language}"))
    pairs = adversarial_pairs(cards)
    assert len(pairs) == 20
    assert {pair.card_slug for pair in pairs} == set(read_json(resolve("builtin:splits.json"))[language])
    assert {pair.kind for pair in pairs} == set(FAULTS)
    sizes = np.array([[units(pair.in_role), units(pair.faulty)] for pair in pairs])
    assert abs(sizes.mean(axis=0)[0] / sizes.mean(axis=0)[1] - 1) < 0.12
    assert auc([1] * 20 + [0] * 20, [*sizes[:, 0], *sizes[:, 1]]) == pytest.approx(0.5, abs=0.2)


def test_adversarial_figures_by_hand():
    cards = read_cards(resolve("builtin:cards/en"))
    pairs = adversarial_pairs({"sherlock-holmes": cards["sherlock-holmes"]})
    assert [pair.kind for pair in pairs] == ["assistant_tone", "contradicts_card"]

    def score(samples):
        return [TermScore(0.9 if sample.reply == pairs[0].in_role else 0.5) for sample in samples]

    # The first pair is told apart; the second ties, which counts a half.
    assert adversarial_figures(score, pairs) == {
        "accuracy": 0.75,
        "n": 2,
        "by_fault": {"assistant_tone": 1.0, "contradicts_card": 0.5},
    }
    assert adversarial_figures(score, adversarial_pairs(MADE.cards)) == {"accuracy": None, "n": 0, "by_fault": {}}

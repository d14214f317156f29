"""The composite: sums, imputation, gates, and terms that misbehave."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_characters import sample

from reward.composite import CompositeReward, Gate, RewardTermError, TermSettings
from rlrp.dialogue import Sample
from rlrp.protocols import TermScore


class Fixed:
    """Gives the listed values in turn."""

    def __init__(self, values: Sequence[Any], name: str = "fixed"):
        self.values, self.name = values, name

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        return [TermScore(v, (f"{self.name} said {v}",), {"raw": 1.0}) for v in self.values]


class Raising:
    name = "broken"

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        raise RuntimeError("out of paper")


def totals(composite: CompositeReward, *sizes: int) -> list[list[float]]:
    groups = [[sample()] * size for size in sizes]
    return [[judgement.total for judgement in group] for group in composite.judge(groups)]


def test_the_total_is_the_weighted_sum():
    composite = CompositeReward(
        [(Fixed([0.5, 1.0], "a"), 2.0, TermSettings()), (Fixed([-1.0, 0.0], "b"), 0.5, TermSettings())]
    )
    assert totals(composite, 2) == [[2 * 0.5 - 0.5, 2 * 1.0]]


def test_an_abstention_gets_the_mean_of_its_own_group():
    # First group: mean of 1 and 0; second: 4 alone. The other group's values do not matter.
    composite = CompositeReward([(Fixed([1.0, None, 0.0, None, 4.0]), 1.0, TermSettings())])
    assert totals(composite, 3, 2) == [[1.0, 0.5, 0.0], [4.0, 4.0]]


def test_a_group_that_abstains_as_a_whole_gets_the_neutral_value():
    composite = CompositeReward([(Fixed([None, None]), 2.0, TermSettings(neutral=-0.25))])
    assert totals(composite, 2) == [[-0.5, -0.5]]


def test_one_by_one_imputes_the_neutral_value():
    composite = CompositeReward([(Fixed([None, 1.0]), 1.0, TermSettings(neutral=0.3))])
    assert [j.total for j in composite.score_one_by_one([sample()] * 2)] == [0.3, 1.0]


def test_judgements_keep_raw_values_reasons_and_parts():
    composite = CompositeReward([(Fixed([None, 0.5]), 1.0, TermSettings(neutral=9.0, normalise="group"))])
    first, second = composite.judge([[sample()] * 2])[0]
    assert first.terms == {"fixed": None}
    assert second.terms == {"fixed": 0.5}
    assert second.reasons == {"fixed": ("fixed said 0.5",)}
    assert second.parts == {"fixed": {"raw": 1.0}}


def test_normalising_counts_standard_deviations_within_the_group():
    # Mean 2, population standard deviation 1; the second group is all equal and carries no signal.
    composite = CompositeReward([(Fixed([1.0, 3.0, 5.0, 5.0]), 1.0, TermSettings(normalise="group"))])
    assert totals(composite, 2, 2) == [[-1.0, 1.0], [0.0, 0.0]]


def test_a_gate_caps_the_total_of_those_below_it():
    composite = CompositeReward(
        [
            (Fixed([-0.9, -0.1, None], "veto"), 0.0, TermSettings(gate=Gate(below=-0.5, cap=-1.0))),
            (Fixed([1.0, 1.0, 1.0], "good"), 1.0, TermSettings()),
        ]
    )
    assert totals(composite, 3) == [[-1.0, 1.0, 1.0]]


def test_a_term_of_weight_zero_is_logged_and_changes_nothing():
    composite = CompositeReward(
        [(Fixed([0.7], "judge"), 0.0, TermSettings()), (Fixed([0.2], "a"), 1.0, TermSettings())]
    )
    judgement = composite.judge([[sample()]])[0][0]
    assert judgement.total == 0.2
    assert judgement.terms["judge"] == 0.7


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        (Fixed([math.nan]), "nan"),
        (Fixed([math.inf]), "inf"),
        (Fixed(["high"]), "'high'"),
        (Fixed([1.0, 2.0]), "returned 2 scores for 1 samples"),
        (Raising(), "raised RuntimeError: out of paper"),
    ],
)
def test_a_term_that_misbehaves_stops_with_its_name(term: Any, problem: str):
    composite = CompositeReward([(term, 1.0, TermSettings())])
    with pytest.raises(RewardTermError, match=term.name) as caught:
        composite.judge([[sample()]])
    assert problem in str(caught.value)


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(RewardTermError("blacklist", "raised")))
    assert (error.term, str(error)) == ("blacklist", "reward term 'blacklist': raised")


def test_no_terms_and_equal_names_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        CompositeReward([])
    with pytest.raises(ValueError, match="two terms are called 'fixed'"):
        CompositeReward([(Fixed([1]), 1.0, TermSettings())] * 2)


@given(st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=1, max_size=8))
def test_abstaining_never_beats_the_best_nor_loses_to_the_worst(values: list[float | None]):
    composite = CompositeReward([(Fixed(values), 1.0, TermSettings(neutral=0.0))])
    found = totals(composite, len(values))[0]
    given_values = [value for value in values if value is not None] or [0.0]
    for value, total in zip(values, found, strict=True):
        if value is None:
            assert min(given_values) - 1e-9 <= total <= max(given_values) + 1e-9

"""Figures of agreement with people, against scipy's and scikit-learn's and against numbers made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_characters import sample
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from reward.measures import auc
from reward.people.figures import agreement, calibration, cell, lengths, published, shortness, spearman, within
from reward.people.figures import without_length as without
from reward.people.ratings import Rating

SCORES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=3, max_size=30)


def rating(score: float, at: int = 0, reply: str = "Go away.", **changes: object) -> Rating:
    own = {"dimension": "engagement", "generator": "ab"[at % 2], "character": f"c{at % 5}", "item": str(at), **changes}
    return Rating(sample("en", reply), score=score, language="en", **own)


@given(SCORES)
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(spearman(first, second))
    else:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


def test_two_replies_have_no_rank_correlation() -> None:
    assert math.isnan(spearman([1, 2], [1, 2]))


@given(SCORES)
def test_auc_is_scikit_learns_and_within_one_group_it_is_the_same(pairs: list[tuple[int, int]]) -> None:
    scores, labels = [score for score, _ in pairs], [label > 2 for _, label in pairs]
    found = [auc(labels, scores), within(labels, scores, ["g"] * len(labels))]
    expected = roc_auc_score(labels, scores) if len(set(labels)) == 2 else float("nan")
    assert found == pytest.approx([expected] * 2, abs=1e-9, nan_ok=True)


def test_within_generators_it_is_no_help_to_tell_generators_apart() -> None:
    labels, values = [True, True, False, False], [4.0, 3.0, 2.0, 1.0]
    # All good replies by one, all bad ones by the other: no pair to compare.
    assert math.isnan(within(labels, values, ["a", "a", "b", "b"]))
    # a: 4 over 2; b: 3 over 1.
    assert within(labels, values, ["a", "b", "a", "b"]) == 1.0
    # One pair of a that ties, one of b that is the wrong way round.
    assert within(labels, [1.0, 1.0, 1.0, 2.0], ["a", "b", "a", "b"]) == 0.25


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 300)), min_size=3, max_size=30))
def test_what_a_line_through_the_length_explains_is_taken_out(pairs: list[tuple[float, int]]) -> None:
    values, length = np.array([v for v, _ in pairs]), np.array([n for _, n in pairs], float)
    rest = without(values, length)
    assert rest.mean() == pytest.approx(values.mean(), abs=1e-6)
    if len(set(length)) > 1:
        assert np.cov(np.log1p(length), rest)[0, 1] == pytest.approx(0.0, abs=1e-6)
    else:
        assert rest.tolist() == values.tolist()


def test_a_score_that_is_the_length_is_worth_nothing_without_it() -> None:
    length = np.arange(1.0, 21.0)
    assert without(np.log1p(length) * 3 + 1, length) == pytest.approx(np.full(20, (np.log1p(length) * 3 + 1).mean()))


def test_the_length_is_of_what_the_reader_sees_and_shorter_is_better() -> None:
    ratings = [rating(4, reply="<think>a long plan of it</think>Go away."), rating(2, reply="")]
    assert lengths(ratings).tolist() == [2.0, 0.0]
    assert shortness(ratings).tolist() == [-2.0, 0.0]
    assert np.isnan(published([rating(4), rating(4, published=3.0)])).tolist() == [True, False]


def test_agreement_counts_what_it_is_about_and_leaves_abstentions_out() -> None:
    labels = [4, 2, 5, 2, 3, 1, 4, 2]
    ratings = [rating(score, at) for at, score in enumerate(labels)]
    ratings += [rating(score, at, dimension="memory") for at, score in enumerate([1, 2, 3])]
    scores = [0.9, 0.2, 0.8, 0.3, 0.5, 0.6, 0.25, np.nan, 3.0, 2.0, 1.0]
    found = agreement(scores, ratings, ["engagement"])
    own = found["auc"]["engagement"]
    # 4, 5, 4 against 2, 2; the third 2 has no score, 1 and 3 are not counted: of six pairs one is the wrong way round.
    assert (own["n"], own["value"]) == (5, pytest.approx(5 / 6, abs=1e-4))
    assert own["value"] == pytest.approx(roc_auc_score([1, 0, 1, 0, 1], [0.9, 0.2, 0.8, 0.3, 0.25]), abs=1e-4)
    assert own["ci95"][0] <= own["value"] <= own["ci95"][1]
    assert found["spearman"]["memory"]["value"] == -1.0
    assert found["spearman"]["engagement"]["n"] == 7
    assert found["spearman"]["engagement"]["value"] == pytest.approx(
        spearmanr(labels[:7], scores[:7]).statistic, abs=1e-4
    )
    assert "memory" not in found["auc"]
    assert found["abstained"] == pytest.approx(1 / 11, abs=1e-4)


def test_agreement_is_the_same_for_the_same_seed() -> None:
    ratings = [rating(score, at) for at, score in enumerate([4, 2, 5, 2, 4, 2, 4, 2])]
    scores = [0.9, 0.2, 0.8, 0.3, 0.25, 0.4, 0.6, 0.5]
    assert agreement(scores, ratings, ["engagement"], seed=3) == agreement(scores, ratings, ["engagement"], seed=3)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([np.nan] * 4, [4, 2, 4, 2]), ([0.1, 0.2, 0.3, 0.4], [1, 0, 1, 0]), ([0.1, 0.2, 0.3, 0.4], [4, 4, 5, 5])],
    ids=["a score that always abstains", "a scale of 0 and 1", "good replies alone"],
)
def test_where_there_is_nothing_to_compare_there_is_no_figure(scores: list[float], labels: Sequence[float]) -> None:
    ratings = [rating(label, at) for at, label in enumerate(labels)]
    own = agreement(scores, ratings, ["engagement"])["auc"]["engagement"]
    assert (own["value"], own["ci95"], own["within_generator"], own["without_length"]) == (None, [None] * 2, None, None)
    assert cell(own) == "-"


def test_a_cell_is_short() -> None:
    assert cell({"value": 0.876, "ci95": [0.81, 0.944], "n": 3}) == "0.88 (0.81 to 0.94)"
    assert cell({"value": 0.5, "ci95": [None, None], "n": 3}) == "0.50"
    assert cell(None) == "-"


def test_calibration_is_of_bins_with_equally_many_replies() -> None:
    found = calibration([0.1, 0.9, 0.2, 0.8], [False, True, False, False], bins=2)
    assert found["points"] == [[0.15, 0.0], [0.85, 0.5]]
    assert found["n"] == 4
    # Ten bins of equal width for the error: |0.1| + |0.2| + |0.8| + |0.9 - 1|, over 4.
    assert found["ece"] == pytest.approx((0.1 + 0.2 + 0.8 + 0.1) / 4)

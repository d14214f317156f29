"""Runs and shares of n-grams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reward.overlap import gram_set, grams, share, shared_runs


def test_a_run_is_as_long_as_it_can_be_and_ends_where_the_texts_part() -> None:
    known = gram_set(["a b c d e f", "x y z"], 3)
    tokens = list("qabcdqxyzabc")
    assert shared_runs(tokens, known, 3) == [(1, 5), (6, 9), (9, 12)]
    assert shared_runs(["a", "b"], known, 3) == []


def test_the_share_of_nothing_is_nothing() -> None:
    assert share([], {("a",)}) == 0.0
    assert share(grams(list("abab"), 2), {("a", "b")}) == 2 / 3


@given(st.lists(st.sampled_from("ab"), max_size=12), st.lists(st.sampled_from("ab"), max_size=12), st.integers(1, 4))
def test_runs_are_what_known_grams_cover(own: list[str], other: list[str], order: int) -> None:
    known = set(grams(other, order))
    covered = {at + i for at, gram in enumerate(grams(own, order)) if gram in known for i in range(order)}
    runs = shared_runs(own, known, order)
    places = [at for start, end in runs for at in range(start, end)]
    assert len(places) == len(set(places)) and set(places) == covered

"""A batch among workers: nothing is lost, nothing is done twice, and everybody has about as much to do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlrp.lm.scoring import TokenGroup, micro_batches
from rlrp.rl.shares import shares

GROUPS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(0, 12), min_size=1, max_size=6)), min_size=1, max_size=8
).map(
    lambda sizes: [
        TokenGroup((1,) * prompt, tuple((g,) * length for length in lengths))
        for g, (prompt, lengths) in enumerate(sizes)
    ]
)


@given(groups=GROUPS, workers=st.integers(1, 5), budget=st.integers(1, 60), share=st.booleans())
def test_every_completion_is_someones_once(groups: list[TokenGroup], workers: int, budget: int, share: bool) -> None:
    dealt = shares(groups, workers, budget, share_prefix=share)
    assert len(dealt) == workers
    places = [place for own in dealt for batch in own for place in batch.places]
    spoken = [(g, c) for g, group in enumerate(groups) for c, completion in enumerate(group.completions) if completion]
    assert len(places) == len(set(places)) and set(spoken) <= set(places)
    for batch in (batch for own in dealt for batch in own):
        completions = [completion for group in batch.groups for completion in group.completions]
        assert completions == [groups[g].completions[c] for g, c in batch.places]
        assert batch.scored_tokens > 0
    assert dealt == shares(groups, workers, budget, share_prefix=share)


@given(groups=GROUPS, budget=st.integers(1, 60))
def test_one_worker_gets_the_batch_as_it_is(groups: list[TokenGroup], budget: int) -> None:
    (own,) = shares(groups, 1, budget)
    whole = [(pack, places) for pack, places in micro_batches(groups, budget) if any(g.scored_tokens for g in pack)]
    assert [(batch.groups, batch.places) for batch in own] == whole


def test_shares_are_about_equal_and_large_groups_are_cut() -> None:
    """Two groups of 100 + 8 x 10 = 180 tokens among four workers: each is cut in two, whose prompts come again."""
    groups = [TokenGroup((1,) * 100, ((2,) * 10,) * 8)] * 2
    dealt = shares(groups, 4, 1000)
    assert [sum(g.packed_tokens() for batch in own for g in batch.groups) for own in dealt] == [140] * 4
    # Equal groups, as many as workers or more, stay whole: 3 x 30 and 3 x 30 tokens.
    groups = [TokenGroup((1,) * 20, ((2,) * 5,) * 2)] * 6
    dealt = shares(groups, 2, 1000)
    assert [sum(g.packed_tokens() for batch in own for g in batch.groups) for own in dealt] == [90, 90]
    assert all(len(group.completions) == 2 for own in dealt for batch in own for group in batch.groups)

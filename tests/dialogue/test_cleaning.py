from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.dialogue import Dialogue, Message, drop_uninformative, near_duplicates
from rlrp.dialogue.cleaning import jaccard, shingles, units
from rlrp.errors import UserError


def dialogue(*replies: str) -> Dialogue:
    messages = [m for reply in replies for m in (Message("user", "and then?"), Message("assistant", reply))]
    return Dialogue("d", tuple(messages))


def test_units_are_words_or_chinese_characters():
    assert units("Don't SHOUT, *she* says...") == ["don't", "shout", "she", "says"]
    assert units("俺老张，可不怕你！") == list("俺老张可不怕你")


def test_dialogues_that_say_nothing_are_dropped():
    poor = dialogue("Oh.", "No, no, no, no, no!", "Hm?")
    rich = dialogue("Because the lamp was lit.", "Hm?", "Go down to the harbour and ask.")
    assert drop_uninformative([poor, rich], min_reply_units=4) == [rich]  # medians 1 and 5
    assert drop_uninformative([dialogue("嗯嗯嗯嗯嗯嗯。"), dialogue("今晚别点灯了。")], 4) == [
        dialogue("今晚别点灯了。")
    ]
    assert drop_uninformative([poor], min_reply_units=0) == [poor]


def test_a_dialogue_without_replies_says_nothing():
    assert drop_uninformative([Dialogue("d", (Message("user", "hello there old friend"),))], 1) == []


def test_shingles():
    assert shingles("One two, three FOUR") == {"one two three", "two three four"}
    assert shingles("俺老张不怕你") == {"俺 老 张 不 怕", "老 张 不 怕 你"}
    assert shingles("one two") == {"one two"}
    assert shingles("...") == frozenset()


def test_near_duplicates_gives_the_exact_similarity():
    texts = ["the cat sat on the mat", "something else entirely, in fact", "The cat sat on the mat again!", ""]
    # shingles: 4 of the first, 5 of the third, 4 shared: 4 / 5
    assert near_duplicates(texts) == [(0, 2, 0.8)]


def test_near_duplicates_in_chinese():
    texts = ["今夜只说鱼，不许提旁的", "今夜只说鱼不许提旁的。", "河还清么？"]
    assert near_duplicates(texts) == [(0, 1, 1.0)]


def test_empty_texts_are_no_duplicates_of_each_other():
    assert near_duplicates(["", "!!", "  "]) == []


@pytest.mark.parametrize("threshold", [0.0, 1.1, float("nan")])
def test_impossible_thresholds_are_refused(threshold: float):
    with pytest.raises(UserError):
        near_duplicates(["a", "b"], threshold)


WORDS = st.lists(st.sampled_from(["sea", "fog", "bell", "lamp", "rock"]), min_size=1, max_size=12).map(" ".join)
HAN = st.text(alphabet="海雾钟灯石", min_size=1, max_size=14)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(WORDS, HAN), max_size=12), st.sampled_from([0.3, 0.5, 0.8]), st.integers(0, 2**32))
def test_near_duplicates_against_comparing_all_pairs(texts: list[str], threshold: float, seed: int):
    sets = [shingles(text) for text in texts]
    every = {(i, j): jaccard(sets[i], sets[j]) for i, j in combinations(range(len(texts)), 2)}
    found = {(i, j): similarity for i, j, similarity in near_duplicates(texts, threshold, seed=seed)}
    assert all(every[pair] == similarity >= threshold for pair, similarity in found.items())
    # MinHash may miss a pair near the threshold. One that is safely above it is missed with a chance of at most
    # (1 - 0.9^4)^16 = 2e-8 for threshold 0.8 (r = 4, b = 16), (1 - 0.8^2)^32 = 6e-15 for 0.5 and 0.7^64 for 0.3.
    safe = {0.3: 0.3, 0.5: 0.8, 0.8: 0.9}[threshold]
    assert {pair for pair, similarity in every.items() if similarity >= safe} <= found.keys()


def test_most_pairs_at_the_threshold_are_found():
    """At exactly the threshold, the chance to miss is 1e-4; 300 pairs lose two with a chance below 1e-3."""
    texts = []
    for i in range(300):
        shared, own, other = ([f"{kind}{i}x{k}" for k in range(4)] for kind in "abc")
        texts += [" ".join(shared + own[:2]), " ".join(shared + other[:2])]
    # one-word shingles: 4 shared of 8
    assert len(near_duplicates(texts, 0.5, words=1)) >= 299

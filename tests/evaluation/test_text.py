from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from rlrp.evaluation.text import difference_label, language, policy_label, shown

_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_what_reorders_or_hides_becomes_visible():
    assert shown("a\u202eb\x00c\u200bd\u2066") == "a⟨U+202E⟩b⟨U+0000⟩c⟨U+200B⟩d⟨U+2066⟩"
    assert shown("\ud800") == "⟨U+D800⟩"
    assert shown("\U000e0041") == "⟨U+E0041⟩"


def test_text_that_people_write_is_left_alone():
    for text in ("你好，世界\n\t……", "👩‍👩‍👧 ❤️", "می‌خواهم", "a\u00a0b　c", "é"):
        assert shown(text) == text
    assert shown("one\r\ntwo") == "one\ntwo"


@given(st.text(st.characters()))
def test_nothing_invisible_is_left_and_twice_is_once(text):
    clean = shown(text)
    assert shown(clean) == clean
    assert not [c for c in clean if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert not _REORDERING & {unicodedata.bidirectional(c) for c in clean}
    clean.encode("utf-8")


def test_languages_that_need_their_own_glyphs():
    assert (language("黛玉"), language("お茶、黛玉"), language("Ahab")) == ("zh", "ja", None)


def test_labels():
    assert (policy_label("sft"), policy_label("a\nb")) == ("SFT", "a b")
    assert difference_label("rl", "sft") == "RL - SFT"
    assert difference_label("a-rather-long-name", "another") == "Difference"

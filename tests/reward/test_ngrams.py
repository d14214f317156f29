"""The n-gram register ratio: which of two ways of speaking a text is in, whatever names stand in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.dissonance import ngrams
from reward.dissonance.ngrams import LIMIT, NgramRegister, fit_ngrams, ngram_register, runs, save_ngrams
from rlrp.cards import CharacterCard
from rlrp.errors import UserError

ADA = CharacterCard("Ada", nickname="Countess", aliases=("Ada Lovelace",))
SAID = ["No, you fool!", "What do you want?", "Go away, you!", "Do you hear me?"]
WRITTEN = [
    "Ada was born in 1815.",
    "Ada is known for programs.",
    "Ada was known in London.",
    "Ada is born to be known.",
]
SAID_ZH = ["俺不去！", "你敢？", "俺才不怕！", "你来啊！"]
WRITTEN_ZH = ["出生于伦敦。", "以勇猛著称。", "是著名的将领。", "出生于名门。"]
ZHANG = CharacterCard("张飞")


@pytest.fixture(scope="module")
def table() -> NgramRegister:
    return fit_ngrams("en", [(text, ADA) for text in SAID], [(text, ADA) for text in WRITTEN])


def test_a_fitted_table_knows_its_two_registers(table: NgramRegister) -> None:
    assert all(table.score(text, ADA) < 0 for text in SAID)
    assert all(table.score(text, ADA) > 0 for text in WRITTEN)
    assert table.score("Are you a fool?", ADA) < 0 < table.score("Grace is known and was born in 1906.", ADA)


def test_chinese_goes_through_the_same_code() -> None:
    table = fit_ngrams("zh", [(text, ZHANG) for text in SAID_ZH], [(text, ZHANG) for text in WRITTEN_ZH])
    assert table.score("俺不怕你！", ZHANG) < 0 < table.score("张飞以忠义著称。", ZHANG)


@pytest.mark.parametrize(
    ("language", "said", "written"),
    [
        (
            "en",
            "No! Get out of here, you, before I lose my temper.",
            "He was born in 1850 and is known for his loyalty.",
        ),
        ("zh", "你胡说！俺什么时候怕过？", "他出生于1850年，以忠诚著称，是著名的将领。"),
    ],
)
def test_the_shipped_tables_tell_speech_from_biography(language: ngrams.Language, said: str, written: str) -> None:
    table = ngram_register(language)
    assert table.score(said, ADA) < table.score(written, ADA) - 0.5


def test_the_score_is_a_sum_over_the_root_of_their_number() -> None:
    table = NgramRegister("en", {"a": 3.0, "b": -1.0, "zz": 100.0}, bias=0.5)
    # 0.5 + (3 - 1) / sqrt(2)
    assert table.score("a b", CharacterCard("X")) == pytest.approx(0.5 + 2 / 2**0.5)
    assert table.score("a a a", CharacterCard("X")) == pytest.approx(3.5)
    assert table.score("zz", CharacterCard("X")) == LIMIT


def test_text_that_the_table_does_not_know_says_nothing(table: NgramRegister) -> None:
    for text in ("", "שלום", "🙂"):
        assert NgramRegister("en", {"you": 1.0}, bias=5.0).score(text, ADA) == 0.0
    assert NgramRegister("en", {}, bias=5.0).score("anything", ADA) == 0.0


def test_the_cards_names_count_for_nothing_in_whatever_order_they_come(table: NgramRegister) -> None:
    known = NgramRegister("en", {"love": 2.0, "ada": 1.0, "coun": 1.0}, bias=0.0)
    assert known.score("Ada Lovelace, the Countess", ADA) == 0.0
    for turned in (CharacterCard("Ada Lovelace", aliases=("Ada",)), CharacterCard("Ada", aliases=("Ada Lovelace",))):
        assert known.score("Ada Lovelace speaks to Ada", turned) == 0.0
    assert known.score("Ada Lovelace", CharacterCard("Bo")) > 0


def test_runs_are_short_and_numbers_are_all_one_number() -> None:
    assert runs("Ab", "en") == {" ", "a", "b", " a", "ab", "b ", " ab", "ab ", " ab "}
    assert max(map(len, runs("一二三四五", "zh"))) == 3
    assert runs("born in 1850", "en") == runs("born  in\n7", "en")
    assert runs("a" * 2000 + "b", "en") == runs("a" * 2000, "en")


@given(st.text(max_size=100))
def test_any_text_lies_within_the_limits(text: str) -> None:
    for language in ("en", "zh"):
        assert -LIMIT <= ngram_register(language).score(text, ADA) <= LIMIT


def test_a_stored_table_scores_as_before(table: NgramRegister, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_ngrams(table, tmp_path)
    assert path == tmp_path / "register_ngrams_en.json"
    monkeypatch.setattr(ngrams, "LEXICONS", tmp_path)
    read = ngram_register.__wrapped__("en")
    assert read.weights == pytest.approx(table.weights, rel=6e-3, abs=1e-9)
    for text in SAID + WRITTEN:
        assert read.score(text, ADA) == pytest.approx(table.score(text, ADA), abs=0.05)
    # What was rounded once is written the same again.
    before = path.read_bytes()
    assert save_ngrams(read, tmp_path).read_bytes() == before


@pytest.mark.parametrize(
    "content", [None, "{oops", "[]", '{"weights": {}}', '{"bias": 0, "weights": []}', '{"bias": "x", "weights": {}}']
)
def test_a_table_that_is_none_is_named(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "register_ngrams_en.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(ngrams, "LEXICONS", tmp_path)
    with pytest.raises(UserError, match="not a table of n-grams") as caught:
        ngram_register.__wrapped__("en")
    assert caught.value.file == str(path)


def test_a_language_without_a_table_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"register_ngrams_fr\.json: not a table of n-grams"):
        ngram_register("fr")


def test_the_shipped_tables_are_whole() -> None:
    for language in ("en", "zh"):
        data = json.loads((ngrams.LEXICONS / f"register_ngrams_{language}.json").read_text(encoding="utf-8"))
        assert len(data["weights"]) > 1000
        longest = 4 if language == "en" else 3
        assert max(map(len, data["weights"])) <= longest

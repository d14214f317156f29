"""The blacklist: its lists, its matching, and how rarely people trip over it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from human_lines import SHARED, SOURCES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward.aho import Automaton
from reward.blacklist import LISTS, BlacklistTerm
from reward.blacklist_entries import CATEGORIES, Entry, read_list
from reward.folding import CHARACTERS, fold, read_characters
from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

TERM = BlacklistTerm()
PIRATE = CharacterCard(name="Flint", description="A pirate captain with a wooden leg.")
ZHANG = CharacterCard(name="张飞", description="燕人，性如烈火的猛将。")


def score(reply: str, card: CharacterCard = PIRATE, user: str = "Hello there.") -> TermScore:
    return TERM.score([Sample(card, (Message("user", user),), reply)])[0]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_lists_cover_every_category(language: str) -> None:
    entries = read_list(LISTS / f"blacklist_{language}.jsonl")
    counts = Counter(entry.category for entry in entries)
    assert len(entries) >= 250 and set(counts) == set(CATEGORIES)
    assert len({entry.pattern for entry in entries}) == len(entries)
    assert all(entry.lang == language for entry in entries)
    assert not {"希望", "努力", "相信", "sorry", "of course"} & {entry.pattern for entry in entries}


def test_value_is_half_the_weights_at_most_one() -> None:
    assert score("Hoist the sails, you dogs!") == TermScore(0.0, (), {"hits": 0.0, "weight": 0.0})
    assert score("").value == 0.0
    one = score("As an AI language model, I have no ship.")
    assert one.value == pytest.approx(-0.5) and one.parts == {"hits": 1.0, "weight": 1.0}
    assert one.reasons == ('blacklist: "As an AI language model" (ai_identity)',)
    assert score("As an AI language model, I hope this helps! Feel free to ask. Great question!").value == -1.0


EVASIONS = [
    "As an AI language model",
    "as  an\n ai   LANGUAGE model",
    "Ａｓ ａｎ ＡＩ ｌａｎｇｕａｇｅ ｍｏｄｅｌ",
    "As an A\u200bI lan\u200dguage mo\u00addel",
    "As an ÀÍ lánguage mode\u0301l",
    "Аs аn АI lаnguаge mоdel",
    "As an **AI** language model",
    "作为一个AI语言模型",
    "作為一個AI語言模型",
    "作 为 一 个 ＡＩ 语 言 模 型",
    "作\u200b为一个\ufeffAI语\u2060言模型",
    "作为一个**AI**语言模型",
]


@pytest.mark.parametrize("phrase", EVASIONS)
def test_evasion_does_not_help(phrase: str) -> None:
    reply = f"Arr! {phrase}, 嗯."
    found = TERM.hits(Sample(PIRATE, (), reply))
    assert [hit.entry.category for hit in found] == ["ai_identity"]
    assert reply[found[0].start : found[0].end] == phrase


def test_english_literals_match_whole_words() -> None:
    assert score("The Persian aide came as an aim of peace.").value == 0.0
    assert score("Such was an ai-ming error").value == 0.0


def test_a_machine_may_call_itself_one_and_a_denial_makes_no_machine() -> None:
    robot = CharacterCard(name="HAL", description="An artificial intelligence that runs the ship.")
    person = CharacterCard(name="Ann", description="A nurse. Never say that you are an AI.")
    assert score("As an AI, I never sleep.", robot).value == 0.0
    assert score("As an AI, I never sleep.", person).value == pytest.approx(-0.45)
    assert score("As an AI language model, I never sleep.", robot).value < 0


def test_what_the_user_said_is_excused() -> None:
    reply = "你说人生的意义？俺只晓得杀敌！"
    assert score(reply, ZHANG).value == pytest.approx(-0.25)
    assert score(reply, ZHANG, user="张将军，人生的意义是什么？").value == 0.0


def test_scope_and_plan() -> None:
    assert score("<think>The user is asking for gold.</think>No gold for you.").value == 0.0
    assert score("It's important to note the tide.").value < 0
    assert score("*it's important to note the tide*").value == 0.0  # scope speech


def test_the_heavier_of_overlapping_phrases_counts() -> None:
    assert score("我是一个AI语言模型").parts["hits"] == 1.0


GOOD = {
    "id": "x-1",
    "lang": "en",
    "kind": "literal",
    "pattern": "rope",
    "category": "slop",
    "weight": 0.5,
    "scope": "any",
    "unless_in_card": False,
    "licence": "Apache-2.0",
    "source": "test",
    "reason": "test",
}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        (json.dumps({**GOOD, "weight": 1.5}), "weight: got 1.5"),
        (json.dumps({**GOOD, "weight": 0}), "weight: got 0"),
        (json.dumps({**GOOD, "wieght": 1}), "unknown key 'wieght'"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "scope"}), "key 'scope' is missing"),
        (json.dumps({**GOOD, "category": "rude"}), "category: got 'rude'"),
        (json.dumps({**GOOD, "kind": "regex", "pattern": "("}), "not a regular expression"),
        (json.dumps({**GOOD, "kind": "regex", "pattern": "a*"}), "matches the empty text"),
        (json.dumps({**GOOD, "pattern": "\u200b"}), "nothing is left"),
        (json.dumps(GOOD), "comes twice"),
        (json.dumps({**GOOD, "human_rate": -1}), "human_rate: got -1"),
        (json.dumps({**GOOD, "human_rate": "often"}), "human_rate: got 'often'"),
        (json.dumps({"category": "slop"}), "key 'human_rate' is missing"),
        (json.dumps({"category": "rude", "human_rate": 1}), "category: got 'rude'"),
        (json.dumps({"category": "slop", "human_rate": True}), "human_rate: got True"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, what: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.jsonl: line 2") as error:
        BlacklistTerm([file])
    assert what in str(error.value)


def test_own_lists_and_languages(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    sample = Sample(PIRATE, (), "A rope! As an AI language model")
    assert BlacklistTerm([file]).score([sample])[0].parts == {"hits": 1.0, "weight": 0.5}
    assert BlacklistTerm([file], languages=("zh",)).score([sample])[0].value == 0.0
    with pytest.raises(UserError, match="unknown language 'fr'"):
        BlacklistTerm(languages=("fr",))  # type: ignore[arg-type]


def list_of(folder: Path, *rows: dict[str, object]) -> BlacklistTerm:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return BlacklistTerm([file])


def in_turn(term: BlacklistTerm, reply: str, *earlier: str) -> TermScore:
    turns = [m for text in earlier for m in (Message("user", "Go on."), Message("assistant", text))]
    return term.score([Sample(PIRATE, (*turns, Message("user", "Go on.")), reply)])[0]


def test_a_catastrophic_regex_is_skipped_counted_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slow = {**GOOD, "id": "x-2", "kind": "regex", "pattern": "(?:a|aa)+$"}
    term = list_of(tmp_path, GOOD, slow)
    reply = "a rope " + "a" * 60 + "!"
    started = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        found = term.score([Sample(PIRATE, (), reply)] * 3)
    assert time.perf_counter() - started < 3
    assert [score.parts for score in found] == [{"hits": 1.0, "weight": 0.5, "timeouts": 1.0}] * 3
    assert term.timeouts == {"x-2": 3}
    assert len(caplog.records) == 2  # of the first and the second reply; the next would be of the fourth
    assert "mine.jsonl: line 2: regex 'x-2' took longer" in caplog.text
    assert term.score([Sample(PIRATE, (), "ropes")])[0].value == 0.0


def test_what_people_say_too_is_charged_above_their_rate(tmp_path: Path) -> None:
    term = list_of(tmp_path, {**GOOD, "human_rate": 100})
    # One reply: a tenth of an occurrence is free.
    assert in_turn(term, "A rope.").parts == pytest.approx({"hits": 1, "weight": 0.5 * 0.9})
    assert in_turn(term, "A rope, a rope.").parts == pytest.approx({"hits": 2, "weight": 0.5 * 1.9})
    # Ten replies: one occurrence is free, wherever it is.
    assert in_turn(term, "A rope.", *["Aye."] * 9) == TermScore(0.0, (), {"hits": 1.0, "weight": 0.0})
    assert in_turn(term, "A rope.", "A rope.", *["Aye."] * 8).parts["weight"] == pytest.approx(0.5)
    # Five replies, half an occurrence: the first use cost half, so the second costs all of it.
    assert in_turn(term, "A rope.", *["Aye."] * 4).parts["weight"] == pytest.approx(0.25)


def test_a_categorys_rate_is_of_its_entries_together(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": f"x-{at}", "pattern": word} for at, word in enumerate(("rope", "sail", "mast"))]
    rows[2]["human_rate"] = 0
    term = list_of(tmp_path, {"category": "slop", "human_rate": 500, "reason": "sailors do say so"}, *rows)
    # rope and sail share half an occurrence; mast has a rate of its own and is never free.
    assert in_turn(term, "A rope, a sail.").parts["weight"] == pytest.approx(2 * 0.5 * (1.5 / 2))
    assert in_turn(term, "A mast.").parts["weight"] == 0.5
    assert in_turn(term, "A sail.", "Aye.").value == 0.0


def test_no_shipped_entry_has_a_rate() -> None:
    assert all(entry.human_rate is None for entry in TERM.entries)


@given(st.sampled_from([e for e in TERM.entries if e.regex is None]), st.randoms(use_true_random=False))
def test_every_literal_is_found_however_it_is_spelt(entry: Entry, rng: Random) -> None:
    """Full-width letters, any case, zero-width characters and traditional characters in between."""
    traditional = {simple: old for old, simple in read_characters(CHARACTERS).items() if simple > "\u3400"}
    spelt = ""
    for char in entry.folded:
        forms = [char, char.upper() if len(char.upper()) == 1 else char, traditional.get(char, char)]
        if "!" <= char <= "~" and char != "*":
            forms.append(chr(ord(char) + 0xFEE0))
        spelt += rng.choice(forms) + rng.choice(["", "", "\u200b", "\u200d", "\ufeff", "\u2060", "\u00ad"])
    found = TERM.hits(Sample(PIRATE, (), f"{spelt}"))
    own = fold(spelt).text.strip()
    assert own == entry.folded
    assert any(fold(spelt[hit.start : hit.end]).text.strip() in own for hit in found) or entry.scope == "action"


@given(st.lists(st.text("ab我", min_size=1, max_size=4), max_size=8), st.text("ab我", max_size=30))
def test_the_automaton_finds_what_a_plain_search_finds(literals: list[str], text: str) -> None:
    expected = {
        (at, at + len(literal), number)
        for number, literal in enumerate(literals)
        for at in range(len(text))
        if text.startswith(literal, at)
    }
    assert set(Automaton(literals).find(text)) == expected


@given(st.text(max_size=60))
def test_folding_maps_every_character_back(text: str) -> None:
    folded = fold(text)
    for at in range(len(folded.text)):
        start, end = folded.origin(at, at + 1)
        assert 0 <= start < end <= len(text)
    assert fold(folded.text).text.strip() == fold(fold(folded.text).text).text.strip()


@pytest.mark.parametrize("entry", [e for e in TERM.entries if e.regex is not None], ids=lambda e: e.id)
@settings(max_examples=15, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_an_anchor_is_in_every_match(entry: Entry, data: st.DataObject) -> None:
    """Where no anchor occurs the regex is never tried, so an anchor that a match can lack would hide it."""
    match = data.draw(st.from_regex(re.compile(entry.pattern), fullmatch=True))
    assert entry.anchor and any(anchor in match for anchor in entry.anchor)


def test_speed() -> None:
    """More than 5,000 replies a second, with a margin for a busy machine: here 20,000 or so."""
    sample = Sample(
        ZHANG, (Message("user", "你好"),), "哼，俺老张可不怕你！燕人张翼德在此，谁敢来决一死战？*横矛立马*" * 3
    )
    started = time.perf_counter()
    TERM.score([sample] * 2000)
    assert 2000 / (time.perf_counter() - started) > 5000


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data folder at {SHARED}")
@pytest.mark.parametrize("name", list(SOURCES))
def test_fewer_than_one_human_line_in_a_hundred_is_hit(name: str) -> None:
    _, lines = SOURCES[name]
    samples = [Sample(PIRATE, (), line) for line in lines()]
    hit = sum(score.value != 0 for score in TERM.score(samples))
    assert len(samples) > 1000 and hit / len(samples) < 0.01

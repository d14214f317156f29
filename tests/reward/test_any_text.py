"""Every term that needs no download: whatever a policy writes and whatever a card is, it never raises, its value is
None or a number within its range, and what it marks lies in the reply."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_characters import card, sample
from made_ratings import lines, write_lines

from reward.composite import CompositeReward, TermSettings
from reward.people.fit import Table, aspects_of, fit_aspect
from reward.people.model import People, PeopleTerm
from reward.people.ratings import read_ratings
from reward.sample_files import read_sample_lines
from reward.term_configs import BUILT_IN
from rlrp.cards import CharacterCard, Lorebook, LorebookEntry
from rlrp.dialogue import Message, Sample
from rlrp.protocols import RewardTerm

PENALTIES = ("blacklist", "dissonance", "length", "repetition", "speaks_for_user")
"""Their values lie in [-1, 0]; the learnt terms' in [0, 1]."""
LENGTH = 100_000

FRAGMENTS = [
    *[
        "As an AI language model, ",
        "I was born in 1850. ",
        "You nod, and you say: ",
        "User: ",
        "\n你：",
        "你说：“好”",
        "我是",
    ],
    *[
        "How may I help you?",
        "首先，",
        "20世纪",
        "刚才",
        "公元",
        "OOC",
        "{{char}}",
        "{{user}}",
        "<START>",
        "Keeper 0",
        "角色0号",
    ],
    *[
        "*",
        "**",
        "(",
        ")",
        "（",
        "）",
        "((",
        "[",
        "]",
        "【",
        "】",
        '"',
        "“",
        "”",
        "「",
        "」",
        "'",
        "’",
        "`",
        "|",
        "#",
        "<",
    ],
    *[
        "<think>",
        "</think>",
        "<role_action>",
        "</role_action>",
        "<|im_start|>user",
        "[user]",
        ".",
        "。",
        "…",
        "!",
        "？",
        ",",
    ],
    *["\n", "\n\n", " ", "\t", "\r", "\x00", "\x1b[31m", "\x07", "\u200b", "\u202e", "\ufeff", "\u2028", "\U000e0041"],
    *[
        "🙂",
        "👨‍👩‍👧",
        "🏳️‍🌈",
        "e\u0301",
        "\u0301",
        "İ",
        "ß",
        "ﬁ",
        "ǅ",
        "Σ",
        "１２",
        "ＡＩ",
        "㍿",
        "𝐀𝐈",
        "𠮷",
        "\uf900",
        "٣",
    ],
    *[
        "שלום",
        "مرحبا",
        "Привет",
        "안녕",
        "こんにちは",
        "नमस्ते",
        "เออ",
        "Ünïcödé",
        "1",
        "3.5",
        "x",
        "word ",
        "la ",
        "你",
        "俺不去！",
    ],
]
texts = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join),
    st.text(max_size=80),
    st.text("🙂😀👍🏽🇨🇳\u200d\ufe0f", max_size=20),
    st.text("אבגדשלום مرحبا.", max_size=40),
)
names = st.one_of(
    st.sampled_from(["Ada", "张飞", "İ", ".*", "(", "You", "我", "a", "🙂", "{{user}}"]), texts.filter(str.strip)
)
cards = st.one_of(
    names.map(CharacterCard),
    st.builds(
        CharacterCard,
        name=names,
        nickname=texts,
        aliases=st.lists(texts, max_size=2).map(tuple),
        description=texts,
        personality=texts,
        greeting=texts,
        alternate_greetings=st.lists(texts, max_size=3).map(tuple),
        examples=texts,
        self_reference=st.lists(texts, max_size=2).map(tuple),
        illeist=st.none() | st.booleans(),
        lorebook=st.none() | texts.map(lambda text: Lorebook((LorebookEntry(("key",), text),))),
    ),
)
messages = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts), max_size=4).map(tuple)
samples = st.builds(Sample, cards, messages, texts, st.booleans())


@pytest.fixture(scope="module")
def rules() -> list[RewardTerm]:
    """Every built-in term that has no model."""
    found = {name: own for name, own in BUILT_IN.items() if "model" not in own.model_fields}
    assert set(found) >= set(PENALTIES)
    return [own.model_validate({"weight": 1}).build(name, Path()) for name, own in found.items()]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> list[RewardTerm]:
    """A small one of people's ratings, in English alone; the classifiers are tried where they are trained anyway."""
    path = write_lines(tmp_path_factory.mktemp("any") / "own.jsonl", lines())
    table = Table.of("en", read_ratings(path), "")
    (name, (aim, others)), *_ = aspects_of(["engagement"], ["engagement"]).items()
    people = People({"en": table.model({name: fit_aspect(table, aim, others, table.folds()).aspect})})
    return [PeopleTerm(people)]


def check(terms: list[RewardTerm], given: list[Sample], low: float, high: float) -> None:
    for term in terms:
        own = low if term.name in PENALTIES or low == 0 else -1.0
        top = 0.0 if term.name in PENALTIES else high
        scores = term.score(given)
        assert len(scores) == len(given)
        for one, score in zip(given, scores, strict=True):
            assert score.value is None or own <= score.value <= top, (term.name, score.value)
            assert all(math.isfinite(part) for part in score.parts.values()), (term.name, score.parts)
            assert all(0 <= start < end <= len(one.reply) for start, end in score.spans), (term.name, score.spans)
            assert all(isinstance(reason, str) and reason for reason in score.reasons), term.name


@settings(max_examples=250)
@given(samples)
@example(Sample(CharacterCard("a"), (), ""))
@example(Sample(CharacterCard("🙂"), (Message("user", ""),), "🙂🙂"))
@example(Sample(CharacterCard("."), (Message("assistant", "\x00"),), "\x00"))
@example(Sample(CharacterCard("Ada"), (), "×"))
def test_rules_bear_any_text(rules: list[RewardTerm], one: Sample) -> None:
    check(rules, [one], -1.0, 1.0)


@settings(max_examples=60)
@given(samples)
def test_learnt_terms_bear_any_text(learnt: list[RewardTerm], one: Sample) -> None:
    check(learnt, [one], 0.0, 1.0)


@settings(max_examples=25)
@given(st.lists(samples, min_size=2, max_size=4))
def test_a_sample_is_worth_the_same_alone_and_beside_others(rules: list[RewardTerm], given: list[Sample]) -> None:
    for term in rules:
        alone = [term.score([one])[0] for one in given]
        assert term.score(given) == alone, term.name


@settings(max_examples=25)
@given(st.lists(texts, min_size=1, max_size=4), messages)
def test_totals_of_any_group_are_finite(
    rules: list[RewardTerm], replies: list[str], asked: tuple[Message, ...]
) -> None:
    settings_of = [TermSettings(normalise=how) for how in ("none", "group")]
    reward = CompositeReward([(term, 0.5, settings_of[at % 2]) for at, term in enumerate(rules)])
    judged = reward.judge([[Sample(card("en", 0), asked, reply) for reply in replies]])[0]
    assert all(math.isfinite(judgement.total) for judgement in judged)


LONG = {
    **dict.fromkeys(["a", "la ", "(", "*", "\n", "1", "🙂", "שלום ", "<think>"], LENGTH),
    **dict.fromkeys(['"', "“", "你，", "I am an AI. ", "你说：“好”，"], LENGTH // 5),
}


@pytest.mark.parametrize("part", LONG, ids=ascii)
def test_long_replies_are_borne_and_take_no_square_of_their_length(
    part: str, rules: list[RewardTerm], learnt: list[RewardTerm]
) -> None:
    """Where a pattern looks back over all that came before, this is minutes and not a second."""
    reply = part * (LONG[part] // len(part))
    check(rules, [replace(sample("zh" if "你" in part else "en"), reply=reply)], -1.0, 1.0)
    check(learnt, [replace(sample("en"), reply=reply)], 0.0, 1.0)


def test_a_card_that_tells_everything_twice_is_borne(rules: list[RewardTerm], learnt: list[RewardTerm]) -> None:
    told = "She keeps the lighthouse, and you know it. " * (LENGTH // 215)
    long = CharacterCard("Ada", description=told, greeting=told, examples=f"{{{{char}}}}: {told}")
    one = Sample(long, (Message("user", told), Message("assistant", told), Message("user", "Why?")), "You know it.")
    check(rules, [one], -1.0, 1.0)
    check(learnt, [one], 0.0, 1.0)


@given(st.lists(st.text(st.characters(), max_size=30), min_size=1, max_size=4))
def test_half_characters_that_json_can_write_are_scored(
    rules: list[RewardTerm], tmp_path_factory: pytest.TempPathFactory, replies: list[str]
) -> None:
    rows = [
        {"id": at, "card": {"name": "Ada"}, "messages": [{"role": "user", "content": text}], "reply": f"\ud83d{text}"}
        for at, text in enumerate(replies)
    ]
    path = tmp_path_factory.mktemp("half") / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = [line.sample for line in read_sample_lines(path)]
    for one in read:
        one.reply.encode("utf-8")
    check(rules, read, -1.0, 1.0)

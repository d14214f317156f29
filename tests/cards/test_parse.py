from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrp.cards import CharacterCard, card_to_dict, detect_language, parse_card
from rlrp.errors import UserError

from .strategies import cards, comparable, json_values

V1 = {
    "name": "Watson",
    "description": "A doctor.",
    "personality": "loyal",
    "scenario": "Baker Street",
    "first_mes": "Good morning, {{user}}.",
    "mes_example": "<START>\n{{char}}: Indeed.",
}
V2_DATA: dict[str, Any] = {
    **V1,
    "creator_notes": "Written in a hurry.",
    "system_prompt": "{{original}} Be brief.",
    "post_history_instructions": "Briefly.",
    "alternate_greetings": ["Hello.", "Evening."],
    "tags": ["classic"],
    "creator": "someone",
    "character_version": "7",
    "extensions": {
        "talkativeness": "0.5",
        "rlrp": {"aliases": ["John"], "self_reference": ["I"], "illeist": False, "gender": "male", "note": 1},
    },
}
V2 = {"spec": "chara_card_v2", "spec_version": "2.0", "data": V2_DATA}


def with_data(**changes: object) -> dict[str, Any]:
    return {**V2, "data": {**V2_DATA, **changes}}


def test_v1_is_the_six_keys() -> None:
    card = parse_card(V1)
    assert card == CharacterCard(
        name="Watson",
        description="A doctor.",
        personality="loyal",
        scenario="Baker Street",
        greeting="Good morning, {{user}}.",
        examples="<START>\n{{char}}: Indeed.",
        spec="v1",
    )


def test_v2_reads_data_not_the_repeated_v1_keys() -> None:
    card = parse_card({**V2, "name": "stale", "description": "stale", "fav": True})
    assert (card.name, card.description, card.spec) == ("Watson", "A doctor.", "v2")
    assert (card.system_prompt, card.post_history_instructions) == ("{{original}} Be brief.", "Briefly.")
    assert (card.alternate_greetings, card.tags) == (("Hello.", "Evening."), ("classic",))
    assert (card.aliases, card.self_reference, card.illeist, card.gender) == (("John",), ("I",), False, "male")
    assert card.extras == {"creator_notes": "Written in a hurry.", "creator": "someone", "character_version": "7"}


def test_v3_nickname_is_the_display_name() -> None:
    card = parse_card({"spec": "chara_card_v3", "spec_version": "3.0", "data": {**V2_DATA, "nickname": "Doc"}})
    assert (card.spec, card.name, card.display_name) == ("v3", "Watson", "Doc")
    assert parse_card(V2).display_name == "Watson"


def test_plain_name_and_description() -> None:
    assert parse_card({"name": " 张飞 ", "description": "猛将"}) == CharacterCard(
        name="张飞", description="猛将", spec="v1"
    )


def test_null_is_absent() -> None:
    card = parse_card(with_data(nickname=None, character_book=None, tags=None, extensions=None, scenario=None))
    assert (card.nickname, card.lorebook, card.tags, card.scenario) == ("", None, (), "")


def test_illeist_auto_is_unset() -> None:
    assert parse_card(with_data(extensions={"rlrp": {"illeist": "auto"}})).illeist is None


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([], None),
        ("Watson", None),
        (None, None),
        ({}, "name"),
        ({"name": "  "}, "name"),
        ({"name": 3}, "name"),
        ({"name": "N", "description": ["d"]}, "description"),
        ({"spec": "chara_card_v2"}, "data"),
        ({"spec": "chara_card_v9", "data": {}}, "spec"),
        ({"spec": 2, "data": {}}, "spec"),
        ({"data": {"name": "N"}}, "spec"),
        ({"entries": {}}, "name"),
        (with_data(name=""), "data.name"),
        (with_data(name="N" * 201), "data.name"),
        (with_data(tags="classic"), "data.tags"),
        (with_data(alternate_greetings=["a", 3]), "data.alternate_greetings[1]"),
        (with_data(extensions=[]), "data.extensions"),
        (with_data(extensions={"rlrp": 1}), "data.extensions.rlrp"),
        (with_data(extensions={"rlrp": {"illeist": "no"}}), "data.extensions.rlrp.illeist"),
        (with_data(extensions={"rlrp": {"self_reference": "俺"}}), "data.extensions.rlrp.self_reference"),
        (with_data(character_book=[]), "data.character_book"),
        (with_data(character_book={"entries": [{"keys": "k"}]}), "data.character_book.entries[0].keys"),
        (with_data(character_book={"entries": [{}, {"enabled": 1}]}), "data.character_book.entries[1].enabled"),
        (with_data(description="half \ud83d"), "data.description"),
    ],
)
def test_a_mistake_names_its_field(value: object, place: str | None) -> None:
    with pytest.raises(UserError) as caught:
        parse_card(value, file="cards/x.json")
    assert (caught.value.file, caught.value.place) == ("cards/x.json", place)


def test_newer_version_warns_and_is_kept() -> None:
    with pytest.warns(UserWarning, match="newer"):
        card = parse_card({**V2, "spec_version": "2.5"})
    assert card_to_dict(card)["spec_version"] == "2.5"
    assert card_to_dict(card, spec="v3")["spec_version"] == "3.0"


def test_misspelt_extension_warns() -> None:
    with pytest.warns(UserWarning, match="did you mean self_reference"):
        parse_card(with_data(extensions={"rlrp": {"self_references": ["俺"]}}))


def test_v2_comes_back_as_it_was() -> None:
    original = {**V2, "fav": True, "data": {**V2_DATA, "x_unknown": {"deep": [1, None]}}}
    assert card_to_dict(parse_card(copy.deepcopy(original))) == original


def test_repeated_v1_keys_follow_an_edit() -> None:
    card = replace(parse_card({**V2, "name": "Watson", "avatar": "w.png"}), name="Moriarty")
    written = card_to_dict(card)
    assert (written["name"], written["data"]["name"], written["avatar"]) == ("Moriarty", "Moriarty", "w.png")


def test_edited_own_fields_win_and_foreign_ones_stay() -> None:
    card = replace(parse_card(V2), aliases=(), illeist=True, gender=None)
    assert card_to_dict(card)["data"]["extensions"] == {
        "talkativeness": "0.5",
        "rlrp": {"aliases": [], "self_reference": ["I"], "illeist": True, "gender": None, "note": 1},
    }
    assert (parse_card(card_to_dict(card)).illeist, parse_card(card_to_dict(card)).aliases) == (True, ())


def test_written_dictionary_is_the_callers_own() -> None:
    card = parse_card(V2)
    card_to_dict(card)["data"]["extensions"]["rlrp"]["note"] = 2
    assert card.extensions["rlrp"]["note"] == 1


def test_v3_has_its_mandatory_field() -> None:
    written = card_to_dict(parse_card(V1), spec="v3")
    assert (written["spec"], written["spec_version"]) == ("chara_card_v3", "3.0")
    assert written["data"]["group_only_greetings"] == []


@given(cards, st.sampled_from(["v2", "v3"]))
def test_round_trip(card: CharacterCard, spec: Any) -> None:
    written = card_to_dict(card, spec=spec)
    again = parse_card(json.loads(json.dumps(written)))
    assert again.spec == spec
    assert comparable(again) == comparable(card)
    assert card_to_dict(again, spec=spec) == written


@given(cards)
def test_pickles(card: CharacterCard) -> None:
    language = card.language
    again = pickle.loads(pickle.dumps(card))
    assert again == card
    assert again.language == language


@given(json_values)
def test_any_json_is_a_card_or_a_user_error(value: Any) -> None:
    try:
        parse_card(value)
    except UserError:
        return
    assert value["name"].strip()


@given(st.sampled_from(sorted({*V2_DATA, "nickname", "character_book"})), json_values)
def test_any_value_in_a_field_is_read_or_named(key: str, value: Any) -> None:
    try:
        card = parse_card(with_data(**{key: value}))
    except UserError as error:
        assert error.place is not None
        assert error.place.startswith(f"data.{key}")
    else:
        written = card_to_dict(card)
        assert card_to_dict(parse_card(written)) == written


def test_hash_agrees_with_equality() -> None:
    first, second = parse_card(V2), parse_card(copy.deepcopy(V2))
    assert first is not second
    assert (first, hash(first)) == (second, hash(second))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("123!", "en"),
        ("An English card that quotes 你好 once.", "en"),
        ("张飞, also Zhang Fei 字翼德，蜀汉猛将，嗜酒。", "zh"),
        ("他是猛将。", "zh"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert detect_language(text) == language
    assert CharacterCard(name="N", description=text).language == language


def test_a_silent_card_has_the_language_of_its_name() -> None:
    assert CharacterCard(name="张飞").language == "zh"

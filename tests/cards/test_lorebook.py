from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrp.cards import Lorebook, LorebookEntry, active_entries, lorebook_to_dict, parse_lorebook, read_lorebook
from rlrp.cards import keys as key_module
from rlrp.cards.decorators import split_decorators
from rlrp.errors import UserError

from .strategies import json_values, lorebooks


def entry(content: str, *keys: str, **fields: Any) -> LorebookEntry:
    return LorebookEntry(keys=keys, content=content, **fields)


def active(
    texts: Sequence[str], *entries: LorebookEntry, book: dict[str, Any] | None = None, **options: Any
) -> list[str]:
    lorebook = Lorebook(entries=entries, **(book or {}))
    return [found.content for found in active_entries(lorebook, texts, **options)]


def test_keys_and_constant() -> None:
    texts = ["The DRAGON sleeps.", "屋里有龙。"]
    entries = (
        entry("by key", "dragon"),
        entry("by chinese key", "龙"),
        entry("no key", "elf"),
        entry("empty key", "", " "),
        entry("always", constant=True),
        entry("off", "dragon", enabled=False),
        entry("off and constant", constant=True, enabled=False),
    )
    assert active(texts, *entries) == ["by key", "by chinese key", "always"]
    assert active([], *entries) == ["always"]


def test_case_and_whole_words() -> None:
    assert active(["cats"], entry("a", "Cat"), entry("b", "Cat", case_sensitive=True)) == ["a"]
    words = (entry("cat", "cat", match_whole_words=True), entry("c++", "c++", match_whole_words=True))
    assert active(["cats, C++."], *words) == ["c++"]
    assert active(["a cat"], *words) == active(["一只cat在睡"], *words) == ["cat"]
    assert active(["他是龙骑士"], entry("龙", "龙", match_whole_words=True)) == ["龙"]


@pytest.mark.parametrize(
    ("logic", "expected"),
    [
        ("and_any", ["one", "both"]),
        ("and_all", ["both"]),
        ("not_any", ["none"]),
        ("not_all", ["none", "one"]),
    ],
)
def test_secondary_keys(logic: Any, expected: list[str]) -> None:
    found = {
        name: active([text], entry(name, "k", selective=True, secondary_keys=("x", "y"), secondary_logic=logic))
        for name, text in (("none", "k"), ("one", "k x"), ("both", "k x y"), ("no primary", "x y"))
    }
    assert [name for name, contents in found.items() if contents] == expected


def test_secondary_keys_count_only_when_selective() -> None:
    assert active(["k"], entry("a", "k", secondary_keys=("x",)), entry("b", "k", selective=True)) == ["a", "b"]


def test_scan_depth() -> None:
    texts = ["old k", "middle", "new"]
    assert active(texts, entry("a", "k")) == ["a"]
    assert active(texts, entry("a", "k"), book={"scan_depth": 2}) == []
    assert active(texts, entry("a", "k", scan_depth=3), book={"scan_depth": 2}) == ["a"]
    assert active(texts, entry("@@scan_depth 1\na", "k", scan_depth=3)) == []
    assert active(texts, entry("a", "new"), entry("b", constant=True), book={"scan_depth": 0}) == ["b"]


def test_regular_expressions() -> None:
    plain = entry("plain", r"drag(on|oon)s?\b", use_regex=True)
    slashed = entry("slashed", "/^Dragon/m")
    assert active(["a dragoon"], plain, slashed) == ["plain"]
    assert active(["x\nDragon"], plain, slashed) == ["plain", "slashed"]
    assert active(["x\ndragon"], slashed, entry("i", "/^DRAGON/mi")) == ["i"]
    assert active(["a.b"], entry("literal", "a.b"), entry("not a regex", "a.c")) == ["literal"]


def test_regex_entry_of_sillytavern_stays_constant() -> None:
    assert active([], entry("a", "k", use_regex=True, constant=True)) == ["a"]


def test_a_wrong_pattern_warns_and_does_not_match() -> None:
    with pytest.warns(UserWarning, match="not a regular expression"):
        assert active(["(((x"], entry("a", "(((x", use_regex=True), entry("b", "x")) == ["b"]
    with pytest.warns(UserWarning, match="too long"):
        assert active(["x"], entry("a", "x" * 2001, use_regex=True)) == []


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_module, "_TIMEOUT_SECONDS", 0.05)
    slow = entry("a", "(a|aa)+$", use_regex=True)  # about 1.6^n ways to split n letters
    text = "a" * 60 + "b"
    started = time.monotonic()
    with pytest.warns(UserWarning, match="backtracks too long"):
        assert active([text], slow) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once, and not tried again
        assert active([text], slow) == []
    assert time.monotonic() - started < 5


def test_insertion_order_then_file_order() -> None:
    entries = [
        entry(name, constant=True, insertion_order=order) for name, order in (("c", 5), ("a", 1), ("d", 5), ("b", 2.5))
    ]
    assert active([], *entries) == ["a", "b", "c", "d"]


def test_budget_drops_the_least_important_first() -> None:
    entries = (
        entry("aaaa", constant=True, insertion_order=1, priority=10),
        entry("bbb", constant=True, insertion_order=2, priority=1),
        entry("cc", constant=True, insertion_order=3),  # counts as priority 3
    )

    def within(budget: int) -> list[str]:
        return active([], *entries, book={"token_budget": budget}, count_tokens=len)

    assert within(9) == ["aaaa", "bbb", "cc"]
    assert within(8) == ["aaaa", "cc"]
    assert within(5) == ["aaaa"]
    assert within(3) == []
    first_out = entry("@@ignore_on_max_context\ndddd", constant=True, priority=99)
    assert active([], *entries, first_out, book={"token_budget": 12}, count_tokens=len) == ["aaaa", "bbb", "cc"]


def test_recursion() -> None:
    chain = (entry("has two", "one"), entry("has three", "two"), entry("end", "three"), entry("loop one", "one"))
    assert active(["one"], *chain) == ["has two", "loop one"]
    assert active(["one"], *chain, book={"recursive_scanning": True}) == ["has two", "has three", "end", "loop one"]
    hidden = entry("{{hidden_key:two}}seen", "one")
    found = active(
        ["one"], hidden, entry("end", "two"), book={"recursive_scanning": True}, expand=lambda text: text[-4:]
    )
    assert found == ["seen", "end"]


def test_macros_in_keys_and_contents() -> None:
    def expand(text: str) -> str:
        return text.replace("{{char}}", "张飞")

    assert active(["张飞来了"], entry("{{char}} is here", "{{char}}"), expand=expand) == ["张飞 is here"]


def test_empty_content_is_never_inserted() -> None:
    assert active([], entry("@@depth 3\n", constant=True), entry(" \n", constant=True)) == []


def test_decorators_are_parsed_and_stripped() -> None:
    decorators, text = split_decorators(
        "@@depth 4\n@@role system\r\n@@scan_depth 2\n@@scan_depth 9\n\n@ home\n@@not one"
    )
    assert text == "@ home\n@@not one"
    assert dict(decorators.values) == {"scan_depth": ("2", "9")}
    assert decorators.number("scan_depth") == 2


def test_fallback_decorators() -> None:
    decorators, text = split_decorators(
        "@@unknown 1\n@@@depth 2\n@@@scan_depth 3\n@@@activate\n@@is_greeting 1\n@@@activate\nx"
    )
    assert (dict(decorators.values), text) == ({"scan_depth": ("3",), "is_greeting": ("1",)}, "x")
    decorators, _ = split_decorators("@@scan_depth many\n@@@scan_depth 4\nx")
    assert decorators.number("scan_depth") == 4


def test_activating_decorators() -> None:
    assert active([], entry("@@activate\na")) == ["a"]
    assert active(["k"], entry("@@dont_activate\na", "k"), entry("@@dont_activate\nb", constant=True)) == []
    assert active(["k"], entry("@@dont_activate\n@@activate\na", "k")) == ["a"]
    more = entry("@@additional_keys x, y\n@@additional_keys z\na", "k")
    assert (active(["k y z"], more), active(["k y"], more)) == (["a"], [])
    less = entry("@@exclude_keys x,y\na", "k")
    assert (active(["k"], less), active(["k y"], less)) == (["a"], [])


def test_decorators_that_count_turns() -> None:
    after, every = (
        entry("@@activate_only_after 3\na", constant=True),
        entry("@@activate_only_every 2\nb", constant=True),
    )
    assert {n: active([], after, every, character_turns=n) for n in (2, 3, 4)} == {2: ["b"], 3: ["a"], 4: ["a", "b"]}
    assert active([], after, every) == ["a", "b"]
    greeting = entry("@@is_greeting 1\na", constant=True)
    assert [active([], greeting, greeting_index=n) for n in (0, 1, None)] == [[], ["a"], ["a"]]


def test_position() -> None:
    book = Lorebook(
        entries=(
            entry("@@position before_desc\na", constant=True),
            entry("@@position scenario\nb", constant=True, position="before_char"),
            entry("c", constant=True),
        )
    )
    assert [found.position for found in active_entries(book, [])] == ["before_char", "before_char", "after_char"]


WORLD_INFO = {
    "entries": {
        "0": {
            "uid": 0,
            "key": ["龙", "/dragon/i"],
            "keysecondary": ["火"],
            "comment": "about dragons",
            "content": "龙会喷火。",
            "constant": False,
            "selective": True,
            "selectiveLogic": 3,
            "order": 50,
            "position": 0,
            "disable": False,
            "scanDepth": 4,
            "caseSensitive": None,
            "matchWholeWords": True,
            "sticky": 2,
        },
        "1": {"key": [], "content": "off", "disable": True, "position": 4},
    },
    "name": "world",
}


def test_sillytavern_world_info() -> None:
    book = parse_lorebook(WORLD_INFO)
    dragons, off = book.entries
    assert dragons == LorebookEntry(
        keys=("龙", "/dragon/i"),
        content="龙会喷火。",
        insertion_order=50,
        match_whole_words=True,
        selective=True,
        secondary_keys=("火",),
        secondary_logic="and_all",
        position="before_char",
        scan_depth=4,
        extras={"id": 0, "comment": "about dragons", "extensions": {"sticky": 2}},
    )
    assert (off.enabled, off.position, off.insertion_order) == (False, "after_char", 100)
    again = parse_lorebook(lorebook_to_dict(book))
    assert again.entries[0].extras["extensions"]["sticky"] == 2
    assert [e.content for e in active_entries(again, ["a Dragon, 火"])] == ["龙会喷火。"]


def test_standalone_v3(tmp_path: Path) -> None:
    data = {"entries": [{"keys": ["k"], "content": "c", "secondary_keys": "x, y", "selective": True}], "extensions": {}}
    path = tmp_path / "book.json"
    path.write_text(json.dumps({"spec": "lorebook_v3", "data": data}))
    assert read_lorebook(path).entries[0].secondary_keys == ("x", "y")
    path.write_text(json.dumps({"spec": "lorebook_v3", "data": {"entries": [{"keys": [1]}]}}))
    with pytest.raises(UserError, match=r"data\.entries\[0\]\.keys\[0\]: got a number, expected a string"):
        read_lorebook(path)


def test_negative_limits_mean_none() -> None:
    book = parse_lorebook({"entries": [], "scan_depth": -1, "token_budget": 512.0})
    assert (book.scan_depth, book.token_budget) == (None, 512)


@pytest.mark.parametrize("number", [True, "1", 1e300, float("inf"), float("nan"), 10**400], ids=type)
def test_wrong_numbers(number: object) -> None:
    with pytest.raises(UserError, match="token_budget"):
        parse_lorebook({"entries": [], "token_budget": number})


@given(lorebooks)
def test_round_trip(book: Lorebook) -> None:
    written = lorebook_to_dict(book)
    again = parse_lorebook(json.loads(json.dumps(written)))
    assert lorebook_to_dict(again) == written
    assert [e.content for e in active_entries(again, ["x"])] == [e.content for e in active_entries(book, ["x"])]


@given(
    json_values
    | st.builds(
        lambda value: {"entries": value},
        json_values
        | st.lists(
            st.dictionaries(st.sampled_from(["keys", "key", "content", "order", "extensions", "position"]), json_values)
        ),
    )
)
def test_any_json_is_a_lorebook_or_a_user_error(value: Any) -> None:
    try:
        book = parse_lorebook(value)
    except UserError:
        return
    assert len(book.entries) == len(value["entries"])

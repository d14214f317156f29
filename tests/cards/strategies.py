"""Hypothesis strategies for cards and for JSON of any kind."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from rlrp.cards import CharacterCard, Lorebook, LorebookEntry

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = st.text("abcXYZ张飞黛玉{}: ", min_size=1, max_size=12).map(str.strip).filter(bool)
text_lists = st.lists(texts, max_size=3).map(tuple)
depths = st.none() | st.integers(0, 9)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=8,
)
unknown_fields = st.dictionaries(st.text("uvwxyz", min_size=1, max_size=5).map("x_".__add__), json_values, max_size=3)

entries = st.builds(
    LorebookEntry,
    keys=text_lists,
    content=texts,
    enabled=st.booleans(),
    insertion_order=st.integers(-5, 200),
    case_sensitive=st.booleans(),
    match_whole_words=st.booleans(),
    use_regex=st.booleans(),
    constant=st.booleans(),
    priority=st.none() | st.integers(0, 9),
    selective=st.booleans(),
    secondary_keys=text_lists,
    secondary_logic=st.sampled_from(["and_any", "not_all", "not_any", "and_all"]),
    position=st.sampled_from(["before_char", "after_char"]),
    scan_depth=depths,
    extras=unknown_fields,
)
lorebooks = st.builds(
    Lorebook,
    entries=st.lists(entries, max_size=3).map(tuple),
    name=texts,
    description=texts,
    scan_depth=depths,
    token_budget=depths,
    recursive_scanning=st.booleans(),
    extras=unknown_fields,
)
cards = st.builds(
    CharacterCard,
    name=names,
    aliases=text_lists,
    nickname=texts.map(str.strip),
    description=texts,
    personality=texts,
    scenario=texts,
    greeting=texts,
    alternate_greetings=text_lists,
    examples=texts,
    system_prompt=texts,
    post_history_instructions=texts,
    lorebook=st.none() | lorebooks,
    tags=text_lists,
    self_reference=text_lists,
    illeist=st.none() | st.booleans(),
    gender=st.none() | st.sampled_from(["female", "男"]),
    extensions=unknown_fields,
    extras=unknown_fields,
    top_level=unknown_fields,
    spec=st.just("v2"),
)


def comparable(card: CharacterCard) -> CharacterCard:
    """The card without what writing adds: mandatory fields with their defaults, and our own extension."""

    def added(fields: object, *keys: str) -> dict[str, object]:
        assert isinstance(fields, dict)
        return {key: value for key, value in fields.items() if key not in keys}

    book = card.lorebook
    if book is not None:
        entries = tuple(replace(entry, extras=added(entry.extras, "extensions")) for entry in book.entries)
        book = replace(book, entries=entries, extras=added(book.extras, "extensions"))
    return replace(
        card,
        lorebook=book,
        extensions=added(card.extensions, "rlrp"),
        extras=added(card.extras, "creator_notes", "creator", "character_version", "group_only_greetings"),
        top_level=added(card.top_level, "spec_version"),
        spec="v2",
    )

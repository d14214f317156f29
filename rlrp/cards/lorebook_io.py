"""Reading and writing lorebooks: a card's ``character_book``, standalone V3 files, SillyTavern's world info."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlrp.cards.fields import Fields
from rlrp.cards.jsonio import load_json, read_bytes
from rlrp.cards.model import Lorebook, LorebookEntry, Position, SecondaryLogic

_SECONDARY_LOGIC: tuple[SecondaryLogic, ...] = ("and_any", "not_all", "not_any", "and_all")
"""In the order of SillyTavern's numbers."""


def read_lorebook(path: str | Path) -> Lorebook:
    """Read a lorebook from a ``.json`` file in any of the three forms."""
    return parse_lorebook(load_json(read_bytes(path), file=path), file=path)


def parse_lorebook(value: object, *, file: str | Path | None = None, place: str = "") -> Lorebook:
    """Read a lorebook from JSON, telling the form by ``spec`` and by the type of ``entries``.

    Args:
        value: a ``character_book`` (entries in an array), ``{"spec": "lorebook_v3", "data": ...}``, or world
            info (entries in an object).
        file: for error messages; place: the lorebook's place in that file.
    """
    fields = Fields.of(value, file=file, place=place)
    if fields.values.get("spec") == "lorebook_v3":
        fields = Fields.of(fields.values.get("data"), file=file, place=fields.path("data"))
    entries = fields.take("entries")
    if isinstance(entries, Mapping):
        parsed = [_world_info_entry(entry, fields, str(key)) for key, entry in entries.items()]
    elif isinstance(entries, list | tuple):
        parsed = [_book_entry(entry, fields, index) for index, entry in enumerate(entries)]
    else:
        raise fields.error("entries", "expected an array of lorebook entries (or world info's object of them)")
    return Lorebook(
        entries=tuple(parsed),
        name=fields.text("name"),
        description=fields.text("description"),
        scan_depth=fields.limit("scan_depth"),
        token_budget=fields.limit("token_budget"),
        recursive_scanning=fields.flag("recursive_scanning"),
        extras=fields.rest(),
    )


def _book_entry(value: object, book: Fields, index: int) -> LorebookEntry:
    fields = Fields.of(value, file=book.file, place=book.path(f"entries[{index}]"))
    # SillyTavern keeps what the format has no field for among the entry's extensions.
    extensions = Fields.of(fields.values.get("extensions") or {}, file=book.file, place=fields.path("extensions"))
    return LorebookEntry(
        keys=fields.texts("keys"),
        content=fields.text("content"),
        enabled=fields.flag("enabled", default=True),
        insertion_order=fields.number("insertion_order") or 0,
        case_sensitive=fields.flag("case_sensitive") or extensions.flag("case_sensitive"),
        match_whole_words=extensions.flag("match_whole_words"),
        use_regex=fields.flag("use_regex"),
        constant=fields.flag("constant"),
        priority=fields.number("priority"),
        selective=fields.flag("selective"),
        secondary_keys=_secondary_keys(fields, "secondary_keys"),
        secondary_logic=_secondary_logic(extensions),
        position="before_char" if fields.take("position") == "before_char" else "after_char",
        scan_depth=extensions.limit("scan_depth"),
        extras=fields.rest(),
    )


def _world_info_entry(value: object, book: Fields, key: str) -> LorebookEntry:
    fields = Fields.of(value, file=book.file, place=book.path(f"entries.{key}"))
    order = fields.number("order")
    position: Position = "before_char" if fields.take("position") == 0 else "after_char"
    extras = {name: fields.take(old) for old, name in (("uid", "id"), ("comment", "comment")) if old in fields.values}
    return LorebookEntry(
        keys=fields.texts("key"),
        content=fields.text("content"),
        enabled=not fields.flag("disable"),
        insertion_order=100 if order is None else order,
        case_sensitive=fields.flag("caseSensitive"),
        match_whole_words=fields.flag("matchWholeWords"),
        constant=fields.flag("constant"),
        selective=fields.flag("selective", default=True),
        secondary_keys=_secondary_keys(fields, "keysecondary"),
        secondary_logic=_secondary_logic(fields),
        position=position,
        scan_depth=fields.limit("scanDepth"),
        extras={**extras, "extensions": fields.rest()},
    )


def _secondary_keys(fields: Fields, key: str) -> tuple[str, ...]:
    """V3 words this field as one string separated by commas, everyone else as an array."""
    if isinstance(fields.values.get(key), str):
        return tuple(part.strip() for part in fields.text(key).split(",") if part.strip())
    return fields.texts(key)


def _secondary_logic(fields: Fields) -> SecondaryLogic:
    number = fields.number("selectiveLogic")
    return _SECONDARY_LOGIC[int(number)] if number in (0, 1, 2, 3) else "and_any"


def lorebook_to_dict(lorebook: Lorebook) -> dict[str, Any]:
    """The lorebook in the form cards embed (V2; its optional V3 fields are valid there too)."""
    book: dict[str, Any] = dict(lorebook.extras)
    book.setdefault("extensions", {})
    optional: dict[str, Any] = {
        "name": lorebook.name or None,
        "description": lorebook.description or None,
        "scan_depth": lorebook.scan_depth,
        "token_budget": lorebook.token_budget,
        "recursive_scanning": lorebook.recursive_scanning or None,
    }
    book.update({key: value for key, value in optional.items() if value is not None})
    book["entries"] = [_entry_to_dict(entry) for entry in lorebook.entries]
    return copy.deepcopy(book)


def _entry_to_dict(entry: LorebookEntry) -> dict[str, Any]:
    kept = dict(entry.extras.get("extensions") or {})
    for key, value, default in (
        ("case_sensitive", entry.case_sensitive, False),
        ("match_whole_words", entry.match_whole_words, False),
        ("scan_depth", entry.scan_depth, None),
        ("selectiveLogic", _SECONDARY_LOGIC.index(entry.secondary_logic), 0),
    ):
        # A default is written only over another value, so that a plain entry stays plain.
        if value != default or kept.get(key, default) not in (default, None):
            kept[key] = value
    written: dict[str, Any] = {
        **entry.extras,
        "keys": list(entry.keys),
        "content": entry.content,
        "extensions": kept,
        "enabled": entry.enabled,
        "insertion_order": entry.insertion_order,
        "use_regex": entry.use_regex,
        "constant": entry.constant,
        "selective": entry.selective,
        "secondary_keys": list(entry.secondary_keys),
        "position": entry.position,
    }
    if entry.case_sensitive:
        written["case_sensitive"] = True
    if entry.priority is not None:
        written["priority"] = entry.priority
    return written

"""Read the blacklist's files and say which line is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward.folding import fold
from rlrp.errors import UserError

CATEGORIES = ("ai_identity", "refusal", "assistant_offer", "slogan", "slop", "cliche", "meta_ooc")
_CHOICES = {
    "lang": ("en", "zh"),
    "kind": ("literal", "regex"),
    "category": CATEGORIES,
    "scope": ("speech", "action", "any"),
}
_TEXTS = ("id", "pattern", "licence", "source", "reason")
_KNOWN = {*_CHOICES, *_TEXTS, "weight", "unless_in_card", "anchor"}


@dataclass(frozen=True)
class Entry:
    """One line of a list. ``folded`` is the literal as :func:`reward.folding.fold` leaves it, ``regex`` the compiled
    pattern of a regex entry, applied to folded text; one of the two is set."""

    id: str
    lang: str
    pattern: str
    category: str
    weight: float
    scope: str
    unless_in_card: bool
    licence: str
    source: str
    reason: str
    folded: str = ""
    regex: re.Pattern[str] | None = None
    anchor: tuple[str, ...] = ()


def read_list(file: str | Path) -> list[Entry]:
    """Read one JSON-lines list; blank lines are skipped.

    Raises:
        UserError: naming file and line, for anything that cannot be used, an id that comes twice included.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read this blacklist as UTF-8 text: {error}", file=file) from error
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = parse_entry(line)
        except ValueError as error:
            raise UserError(str(error), file=file, place=f"line {number}") from error
        if entry.id in entries:
            raise UserError(f"id {entry.id!r} comes twice; ids are unique", file=file, place=f"line {number}")
        entries[entry.id] = entry
    return list(entries.values())


def parse_entry(line: str) -> Entry:
    """One line to an entry; ValueError says what is wrong with it."""
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise ValueError("an entry is a JSON object")
    _check(row)
    anchor = row.get("anchor", [])
    texts = {key: row[key] for key in ("id", "lang", "pattern", "category", "scope", "licence", "source", "reason")}
    common = {**texts, "weight": float(row["weight"]), "unless_in_card": row["unless_in_card"]}
    if row["kind"] == "literal":
        folded = fold(row["pattern"]).text.strip()
        if not folded:
            raise ValueError("pattern: nothing is left of this literal once folded")
        return Entry(**common, folded=folded)
    try:
        regex = re.compile(row["pattern"])
    except re.error as error:
        raise ValueError(f"pattern: not a regular expression: {error}") from error
    if regex.search("") is not None:
        raise ValueError("pattern: this regex matches the empty text and so every reply")
    return Entry(**common, regex=regex, anchor=tuple(fold(part).text for part in anchor))


def _check(row: dict[str, Any]) -> None:
    unknown = sorted(set(row) - _KNOWN)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KNOWN))}")
    missing = sorted(_KNOWN - {"anchor"} - set(row))
    if missing:
        raise ValueError(f"key {missing[0]!r} is missing")
    for key in _TEXTS:
        if not isinstance(row[key], str) or not row[key].strip():
            raise ValueError(f"{key}: got {row[key]!r}, expected text")
    for key, choices in _CHOICES.items():
        if row[key] not in choices:
            raise ValueError(f"{key}: got {row[key]!r}, expected one of {', '.join(choices)}")
    weight = row["weight"]
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight <= 1:
        raise ValueError(f"weight: got {weight!r}, expected a number in (0, 1]")
    if not isinstance(row["unless_in_card"], bool):
        raise ValueError(f"unless_in_card: got {row['unless_in_card']!r}, expected true or false")
    anchor = row.get("anchor", [])
    if not isinstance(anchor, list) or not all(isinstance(part, str) and part for part in anchor):
        raise ValueError("anchor: expected a list of texts, none of them empty")

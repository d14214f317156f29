"""Read the blacklist's files and say which line is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import regex

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
_OPTIONAL = {"anchor", "human_rate"}
_KNOWN = {*_CHOICES, *_TEXTS, "weight", "unless_in_card", *_OPTIONAL}
_OF_A_CATEGORY = {"category", "human_rate", "reason"}


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Args:
        folded: the literal as :func:`reward.folding.fold` leaves it; regex: the compiled pattern of a regex entry (of
            the ``regex`` package, which can be given a time limit), applied to folded text. One of the two is set.
        human_rate: occurrences in 1,000 replies of people, of all that share ``baseline``; None: every one is charged.
        baseline: what the rate is of: the entry's id, or its category where the list gives the category a rate.
        place: file and line, for warnings.
    """

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
    regex: Any = None
    anchor: tuple[str, ...] = ()
    human_rate: float | None = None
    baseline: str = ""
    place: str = field(default="", compare=False)


def read_list(file: str | Path) -> list[Entry]:
    """Read one JSON-lines list; blank lines are skipped.

    A line ``{"category", "human_rate"}`` (and ``reason``, if you like) is no entry: it is the rate of the category's
    entries taken together, those left out that have a rate of their own.

    Raises:
        UserError: naming file and line, for anything that cannot be used, an id that comes twice included.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read this blacklist as UTF-8 text: {error}", file=file) from error
    entries: dict[str, Entry] = {}
    rates: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _object(line)
            if row.keys() <= _OF_A_CATEGORY and "category" in row:
                category, rate = _category_rate(row)
                if category in rates:
                    raise ValueError(f"category {category!r} has a rate already")
                rates[category] = rate
                continue
            entry = parse_entry(row)
        except ValueError as error:
            raise UserError(str(error), file=file, place=f"line {number}") from error
        if entry.id in entries:
            raise UserError(f"id {entry.id!r} comes twice; ids are unique", file=file, place=f"line {number}")
        entries[entry.id] = replace(entry, place=f"{file}: line {number}")
    return [_with_rate(entry, rates) for entry in entries.values()]


def _with_rate(entry: Entry, rates: Mapping[str, float]) -> Entry:
    if entry.human_rate is not None:
        return replace(entry, baseline=entry.id)
    if entry.category in rates:
        # A language has lists of its own, and people's habits in one say nothing of the other.
        return replace(entry, human_rate=rates[entry.category], baseline=f"{entry.lang} {entry.category}")
    return entry


def _object(line: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise ValueError("an entry is a JSON object")
    return row


def _category_rate(row: dict[str, Any]) -> tuple[str, float]:
    if row["category"] not in CATEGORIES:
        raise ValueError(f"category: got {row['category']!r}, expected one of {', '.join(CATEGORIES)}")
    if "human_rate" not in row:
        raise ValueError("key 'human_rate' is missing")
    _check_rate(row["human_rate"])
    return row["category"], float(row["human_rate"])


def parse_entry(row: dict[str, Any]) -> Entry:
    """One line's object to an entry; ValueError says what is wrong with it."""
    _check(row)
    anchor = row.get("anchor", [])
    texts = {key: row[key] for key in ("id", "lang", "pattern", "category", "scope", "licence", "source", "reason")}
    rate = row.get("human_rate")
    common = {**texts, "weight": float(row["weight"]), "unless_in_card": row["unless_in_card"], "human_rate": rate}
    if row["kind"] == "literal":
        folded = fold(row["pattern"]).text.strip()
        if not folded:
            raise ValueError("pattern: nothing is left of this literal once folded")
        return Entry(**common, folded=folded)
    try:
        compiled = regex.compile(row["pattern"])
    except regex.error as error:
        raise ValueError(f"pattern: not a regular expression: {error}") from error
    if compiled.search("") is not None:
        raise ValueError("pattern: this regex matches the empty text and so every reply")
    return Entry(**common, regex=compiled, anchor=tuple(fold(part).text for part in anchor))


def _check(row: dict[str, Any]) -> None:
    unknown = sorted(set(row) - _KNOWN)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KNOWN))}")
    missing = sorted(_KNOWN - _OPTIONAL - set(row))
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
    if row.get("human_rate") is not None:
        _check_rate(row["human_rate"])
    anchor = row.get("anchor", [])
    if not isinstance(anchor, list) or not all(isinstance(part, str) and part for part in anchor):
        raise ValueError("anchor: expected a list of texts, none of them empty")


def _check_rate(rate: Any) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate < 0:
        raise ValueError(f"human_rate: got {rate!r}, expected occurrences in 1,000 replies of people, from 0")

"""Fold text so that a phrase is found however it is spelt, and keep the way back to the original offsets.

Folded away: width and compatibility forms (NFKC), case, accents and other combining characters, zero-width
characters, curly quotes, look-alike letters, traditional characters, repeated white space, and the spaces people
put between Chinese characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from rlrp.errors import UserError

CHARACTERS = Path(__file__).parent / "lists" / "characters.yaml"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_SPACE = re.compile(rf"\s\s+|[\t\n\r]|(?<=[{_HAN}，。！？])\s+|\s+(?=[{_HAN}])|\*\*")
# Kept as they are although NFKC would spell them out in several characters.
_KEEP = {"…": "…", "—": "—"}


@dataclass(frozen=True)
class Folded:
    """``text`` is folded; ``offsets[i]`` is where its i-th character stood, None when nothing moved."""

    text: str
    offsets: Sequence[int] | None

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original text that ``text[start:end]`` was folded from."""
        if self.offsets is None:
            return start, end
        return self.offsets[start], self.offsets[end - 1] + 1


class _Table(dict[int, str]):
    """A translation table for ``str.translate`` that learns a character when it first meets it."""

    def __init__(self, same: dict[str, str]):
        super().__init__()
        self._same = same
        self.uneven: set[str] = set()

    def __missing__(self, code: int) -> str:
        char = chr(code)
        folded = _KEEP.get(char) or self._fold(char)
        if len(folded) != 1:
            self.uneven.add(char)
        self[code] = folded
        return folded

    def _fold(self, char: str) -> str:
        if unicodedata.category(char) in ("Cf", "Mn", "Me"):
            return ""
        parts = unicodedata.normalize("NFKD", char)
        plain = "".join(part for part in parts if unicodedata.category(part) not in ("Mn", "Me", "Cf"))
        return "".join(self._same.get(part, part) for part in plain.casefold())


@cache
def _table() -> _Table:
    return _Table(read_characters(CHARACTERS))


def read_characters(file: Path) -> dict[str, str]:
    """Read the table of equivalent characters: groups of two strings of equal length, from and to, by position."""
    groups = yaml.safe_load(file.read_text(encoding="utf-8"))
    same: dict[str, str] = {}
    for name, group in groups.items():
        if (
            not isinstance(group, dict)
            or not isinstance(group.get("from"), str)
            or not isinstance(group.get("to"), str)
        ):
            raise UserError("a group needs the strings 'from' and 'to'", file=file, place=str(name))
        left, right = "".join(group["from"].split()), "".join(group["to"].split())
        if len(left) != len(right):
            raise UserError(f"'from' has {len(left)} characters, 'to' {len(right)}", file=file, place=str(name))
        same.update(zip(left, right, strict=True))
    return same


def fold(text: str) -> Folded:
    """Fold ``text``; see the head of this module for what that removes."""
    table = _table()
    folded = text.translate(table)
    even = len(folded) == len(text) and table.uneven.isdisjoint(text)
    if even and _SPACE.search(folded) is None:
        return Folded(folded, None)
    offsets: Sequence[int] = range(len(text))
    if not even:
        offsets = [at for at, char in enumerate(text) for _ in table[ord(char)]]
    return _squeeze(folded, offsets)


def _squeeze(folded: str, offsets: Sequence[int]) -> Folded:
    """Drop white space beside Chinese, shrink other runs to one space, drop the marks of bold type."""
    parts: list[str] = []
    kept: list[int] = []
    done = 0
    for match in _SPACE.finditer(folded):
        parts.append(folded[done : match.start()])
        kept += offsets[done : match.start()]
        before, after = folded[match.start() - 1 : match.start()], folded[match.end() : match.end() + 1]
        if match.group() != "**" and before.isascii() and after.isascii():
            parts.append(" ")
            kept.append(offsets[match.start()])
        done = match.end()
    parts.append(folded[done:])
    kept += offsets[done:]
    return Folded("".join(parts), kept)

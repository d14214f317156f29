"""Small text measures shared by the rule-based terms: language, sentences, clauses, length units."""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["zh", "en"]

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*")
_UNIT = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[A-Za-z\u00c0-\u024f]+(?:['’][A-Za-z]+)*|\d+")
# A sentence keeps its closing marks; a full stop ends one only before a space or the end, so "3.5" stays whole.
_SENTENCE = re.compile(r"(?:[^。！？!?\n…．.]|\.(?=\S)|[.．](?=\d))+(?:[。！？!?…．.]+[\"'”’」』)）]*|\n|$)|[^\n]+")
_CLAUSE = re.compile(r"[^，,；;。！？!?\n…：:、.]+[，,；;。！？!?\n…：:、.]*")


def language_of(text: str, default: Language = "en") -> Language:
    """The language a text is written in: Chinese when a Han character weighs as much as a Latin word.

    Text with neither (digits, marks only) gets ``default``.
    """
    han = len(_HAN.findall(text))
    latin = len(re.findall(r"[A-Za-z]+", text))
    if han == latin == 0:
        return default
    return "zh" if han >= latin else "en"


def units(text: str) -> int:
    """Length in characters-words: every Han character counts one, every Latin word or number one."""
    return len(_UNIT.findall(text))


def unit_list(text: str) -> list[str]:
    """The units that :func:`units` counts, lower-cased."""
    return _UNIT.findall(text.lower())


def words(text: str) -> list[str]:
    """Words of a Latin-script text, lower-cased."""
    return [word.lower() for word in _WORD.findall(text)]


def sentences(text: str) -> list[tuple[int, int]]:
    """Offsets of the sentences of ``text``, blank ones left out."""
    return [m.span() for m in _SENTENCE.finditer(text) if m.group().strip()]


def clauses(text: str) -> list[tuple[int, int]]:
    """Offsets of the clauses of ``text`` (split at commas and stronger), those without a letter or digit left out."""
    return [m.span() for m in _CLAUSE.finditer(text) if any(c.isalnum() for c in m.group())]

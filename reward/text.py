"""Small text measures shared by the rule-based terms: language, sentences, clauses, length units."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import yaml

Language = Literal["zh", "en"]

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*")
# Scripts that put no space between words: Japanese kana one unit a letter, the four of South-East Asia one in four.
_KANA = r"\u3041-\u3096\u30a1-\u30fa"
_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{1,4}"
_MARKS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0dff"
_UNIT = re.compile(
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+(?:['’][A-Za-z]+)*|\d+"
    rf"|[{_KANA}]|{_UNSPACED}|(?:(?![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff{_KANA}])[^\W\d_][{_MARKS}]*)+"
)
# A sentence keeps its closing marks; a full stop ends one only before a space or the end, so "3.5" stays whole.
_SENTENCE = re.compile(r"(?:[^。！？!?\n…．.]|\.(?=\S)|[.．](?=\d))+(?:[。！？!?…．.]+[\"'”’」』)）]*|\n|$)|[^\n]+")
_CLAUSE = re.compile(r"[^，,；;。！？!?\n…：:、.]+[，,；;。！？!?\n…：:、.]*")

OTHER_LANGUAGES = Path(__file__).parent / "lexicons" / "other_languages.yaml"
_LATIN = re.compile(r"[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]")
_LETTER = re.compile(r"[^\W\d_]")
_KANA_LETTER = re.compile(f"[{_KANA}]")
_READABLE_SHARE = 0.5
_KANA_SHARE = 0.1
"""A Chinese text with a の for decoration stays below; Japanese prose has half its letters in kana."""
_FOREIGN_WORDS, _FOREIGN_SHARE = 3, 0.15
"""So many of another language's commonest words, and such a share of all words, are no accident."""


def language_of(text: str, default: Language = "en") -> Language:
    """The language a text is written in: Chinese when a Han character weighs as much as a Latin word.

    Text with neither (digits, marks only) gets ``default``.
    """
    han = len(_HAN.findall(text))
    latin = len(re.findall(r"[A-Za-z]+", text))
    if han == latin == 0:
        return default
    return "zh" if han >= latin else "en"


@lru_cache(maxsize=2048)
def covered(text: str) -> bool:
    """Whether a text is in Chinese or English, the languages that the lexicons and models know; True without a letter.

    Told by script (less than half of the letters Latin or Han, or kana among them) and, in Latin letters, by the
    commonest words of some twenty languages, of which there must be three: a short line in a language that looks like
    English passes, as does Japanese written in Han characters alone.
    """
    letters = len(_LETTER.findall(text))
    latin, han = len(_LATIN.findall(text)), len(_HAN.findall(text))
    if latin + han < _READABLE_SHARE * letters or len(_KANA_LETTER.findall(text)) > _KANA_SHARE * letters:
        return False
    return han >= latin or not _in_another_language(words(text))


def _in_another_language(said: list[str]) -> bool:
    english, others = _common_words()
    different = set(said)  # a stutter repeats itself: "O-o-o-oh"
    other = max(others, key=lambda words: len(words & different))
    if len(other & different) < _FOREIGN_WORDS:
        return False
    own, foreign = (sum(word in words for word in said) for words in (english, other))
    return foreign > own and foreign >= _FOREIGN_SHARE * len(said)


@cache
def _common_words() -> tuple[frozenset[str], tuple[frozenset[str], ...]]:
    """The commonest words of English, and those of each other language that English lacks."""
    lists = yaml.safe_load(OTHER_LANGUAGES.read_text(encoding="utf-8"))
    english, *others = (frozenset(str(words).split()) for words in (lists.pop("en"), *lists.values()))
    return english, tuple(other - english for other in others)


def units(text: str) -> int:
    """Length in characters-words: every Han character counts one, every word or number of another script one.

    Scripts without spaces between words are counted by letters: kana one each, Thai and its neighbours one in four.
    """
    return len(_UNIT.findall(text))


def unit_list(text: str) -> list[str]:
    """The units that :func:`units` counts, lower-cased."""
    return _UNIT.findall(text.lower())


def lower_case(text: str) -> str:
    """The text in lower case, letter by letter, so that every place stays where it is."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def words(text: str) -> list[str]:
    """Words of a Latin-script text, lower-cased."""
    return [word.lower() for word in _WORD.findall(text)]


def sentences(text: str) -> list[tuple[int, int]]:
    """Offsets of the sentences of ``text``, blank ones left out."""
    return [m.span() for m in _SENTENCE.finditer(text) if m.group().strip()]


def clauses(text: str) -> list[tuple[int, int]]:
    """Offsets of the clauses of ``text`` (split at commas and stronger), those without a letter or digit left out."""
    return [m.span() for m in _CLAUSE.finditer(text) if any(c.isalnum() for c in m.group())]

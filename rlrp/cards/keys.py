"""Does a text contain one of an entry's keys? Plain words, whole words, and regular expressions kept on a leash."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import regex  # unlike re, it can give up after a time

_MAX_PATTERN_CHARACTERS = 2000
_MAX_SCANNED_CHARACTERS = 100_000
_TIMEOUT_SECONDS = 0.5
"""Patterns in cards come from strangers: one with exponential backtracking would hang the run."""

_SLASHED = re.compile(r"/(?P<pattern>.+)/(?P<flags>[a-z]*)", re.DOTALL)
_CHINESE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_too_slow: set[str] = set()


@dataclass(frozen=True)
class KeyRules:
    """How keys are compared. ``expand`` replaces the macros inside a key."""

    case_sensitive: bool = False
    whole_words: bool = False
    use_regex: bool = False
    expand: Callable[[str], str] = str

    def any_in(self, keys: Iterable[str], text: str) -> bool:
        """Whether one of the keys is in ``text``; an empty key never is."""
        return any(self._is_in(self.expand(key), text) for key in keys)

    def all_in(self, keys: Iterable[str], text: str) -> bool:
        """Whether every key is in ``text``."""
        return all(self._is_in(self.expand(key), text) for key in keys)

    def _is_in(self, key: str, text: str) -> bool:
        key = key.strip()
        if not key:
            return False
        slashed = _SLASHED.fullmatch(key)
        if slashed:
            return _search(slashed["pattern"], slashed["flags"], text)
        if self.use_regex:
            return _search(key, "" if self.case_sensitive else "i", text)
        if not self.case_sensitive:
            key, text = key.casefold(), _fold(text)
        if self.whole_words and not _CHINESE.search(key):  # Chinese has no gaps between words to look for
            return re.search(rf"(?<![^\W\u3040-\u9fff]){re.escape(key)}(?![^\W\u3040-\u9fff])", text) is not None
        return key in text


@lru_cache(maxsize=16)
def _fold(text: str) -> str:
    """Every key of a book is looked for in the same few texts."""
    return text.casefold()


def _search(pattern: str, flags: str, text: str) -> bool:
    compiled = _compile(pattern, flags)
    if compiled is None or pattern in _too_slow:
        return False
    try:
        return compiled.search(text[-_MAX_SCANNED_CHARACTERS:], timeout=_TIMEOUT_SECONDS) is not None
    except TimeoutError:
        _too_slow.add(pattern)
        warnings.warn(f"lorebook key /{pattern}/ backtracks too long; the key is ignored from here on", stacklevel=2)
        return False


@lru_cache(maxsize=1024)
def _compile(pattern: str, flags: str) -> Any:
    """The compiled pattern, or None (with a warning, once) if it is not one."""
    if len(pattern) > _MAX_PATTERN_CHARACTERS:
        warnings.warn(f"lorebook key of {len(pattern)} characters is too long for a pattern; ignored", stacklevel=2)
        return None
    options = regex.V0
    for letter, option in (("i", regex.IGNORECASE), ("m", regex.MULTILINE), ("s", regex.DOTALL)):
        if letter in flags:
            options |= option
    try:
        return regex.compile(pattern, options)
    except (regex.error, ValueError, OverflowError, RecursionError, IndexError) as error:
        warnings.warn(f"lorebook key /{pattern}/ is not a regular expression ({error}); ignored", stacklevel=2)
        return None

"""The ``@@name value`` lines that V3 allows at the top of a lorebook entry's content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

HONOURED = frozenset(
    {
        "activate",
        "dont_activate",
        "activate_only_after",
        "activate_only_every",
        "additional_keys",
        "exclude_keys",
        "ignore_on_max_context",
        "is_greeting",
        "position",
        "scan_depth",
    }
)
"""Those that mean something for a text placed in the system prompt; the rest are stripped and ignored, as the
specification asks of an application that cannot follow them."""

_NUMERIC = frozenset({"activate_only_after", "activate_only_every", "is_greeting", "scan_depth"})
_POSITIONS = frozenset({"before_desc", "after_desc"})


@dataclass(frozen=True)
class Decorators:
    """The decorators of one entry that are recognised and valid: name to values, one value for each use."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the decorator is there."""
        return name in self.values

    def number(self, name: str) -> int | None:
        """The value of a numeric decorator, or None if it is not there."""
        return int(self.values[name][0]) if name in self.values else None

    def key_lists(self, name: str) -> list[list[str]]:
        """The comma-separated lists of a decorator that may be used several times."""
        return [[key.strip() for key in value.split(",") if key.strip()] for value in self.values.get(name, ())]


@lru_cache(maxsize=4096)
def split_decorators(content: str) -> tuple[Decorators, str]:
    """Separate the leading decorators from the text, with the blank lines around them.

    A ``@@@name`` line stands in for the decorator above it when that one is not recognised or not valid.
    """
    lines = content.replace("\r\n", "\n").split("\n")
    values: dict[str, list[str]] = {}
    settled = True
    for number, line in enumerate(lines):
        text = line.strip()
        if not text:
            continue
        if not text.startswith("@@"):
            return _freeze(values), "\n".join(lines[number:]).strip("\n")
        is_fallback = text.startswith("@@@")
        if is_fallback and settled:
            continue
        name, _, value = text.lstrip("@").partition(" ")
        settled = _is_valid(name, value.strip())
        if settled:
            values.setdefault(name, []).append(value.strip())
    return _freeze(values), ""


def _is_valid(name: str, value: str) -> bool:
    if name in _NUMERIC:
        return value.isascii() and value.isdigit() and len(value) < 10
    if name == "position":
        return value in _POSITIONS
    return name in HONOURED


def _freeze(values: dict[str, list[str]]) -> Decorators:
    return Decorators({name: tuple(uses) for name, uses in values.items()})

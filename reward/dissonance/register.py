"""The registers' tables: what marks somebody speaking, and what marks a text about somebody. Data in the lexicons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import yaml

from reward.dissonance.lexicon import LEXICONS
from reward.text import Language
from rlrp.errors import UserError

GROUPS = ("biography", "dates", "enumeration", "slogan", "opener")


@dataclass(frozen=True)
class Register:
    """Compiled patterns: ``anchors`` by kind, and one pattern for each of :data:`GROUPS`. They are for text that
    :func:`reward.text.lower_case` left: to have the pattern ignore the case costs four times as much."""

    anchors: dict[str, re.Pattern[str]]
    groups: dict[str, re.Pattern[str]]


@cache
def register(language: Language) -> Register:
    """Read ``register_LANG.yaml`` once; UserError for a missing group or a pattern that does not compile."""
    file = LEXICONS / f"register_{language}.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    missing = [name for name in GROUPS if name not in data.get("groups", {})]
    if missing or not data.get("anchors"):
        raise UserError("a register needs anchors and the groups " + ", ".join(GROUPS), file=file)
    anchors = {kind: _compile(pattern, str(file), kind) for kind, pattern in data["anchors"].items()}
    groups = {
        name: _compile("|".join(f"(?:{part})" for part in data["groups"][name]), str(file), name) for name in GROUPS
    }
    return Register(anchors, groups)


def _compile(pattern: str, file: str, place: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"not a regular expression: {error}", file=file, place=place) from error

"""From a YAML file and overrides to settings, with one line for a mistake."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rlrp.config.experiment import Config
from rlrp.errors import UserError
from rlrp.files import read_text


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML experiment and apply ``--set a.b=c`` overrides, in order.

    Raises:
        UserError: missing file, no YAML, unknown key, wrong value: one line with file, line and key.
    """
    text = read_text(path)
    try:
        raw = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else None
        raise UserError(f"is not YAML: {getattr(error, 'problem', error)}", file=path, place=place) from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise UserError(f"got a {type(raw).__name__}, expected keys and values", file=path)
    for override in overrides:
        key, value = split_override(override)
        set_value(raw, key.split("."), value)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise _one_line(error, path, node, overrides) from None


def dump_config(config: Config) -> str:
    """The resolved settings as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fingerprint(*sections: Any) -> str:
    """A short hash of settings: a stage's result belongs to the settings it was made with."""
    plain = [s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def split_override(override: str, example: str = "rl.steps=10") -> tuple[str, str]:
    """The key and the value, still text, of ``a.b=c``; UserError, with the ``example``, if it is none."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"got {override!r}, expected KEY=VALUE such as {example}", place="--set")
    return key.strip(), value


def set_value(raw: dict[str, Any], path: Sequence[str], value: str) -> None:
    """Set what lies at ``path`` of nested mappings to a YAML value; mappings on the way are made where there are none.

    Raises:
        UserError: something on the way is no mapping, or the value is no YAML.
    """
    key, (*parents, last) = ".".join(path), path
    target = raw
    for parent in parents:
        child = target.get(parent)
        if child is None:
            child = target[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"{parent!r} is not a section", place=f"--set {key}")
        target = child
    try:
        target[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{value!r} is not a YAML value", place=f"--set {key}") from None


_KEY = re.compile(r"([\w.-]+): (.*)", re.DOTALL)
"""A message of a section's check that begins with the key that it is about."""


def _one_line(error: ValidationError, path: str | Path, node: Any, overrides: Sequence[str]) -> UserError:
    first = error.errors()[0]
    loc = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(loc[-1], _fields_at(loc[:-1]), n=1)
        message = f"unknown key {loc[-1]!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        if not close:
            message += f"; known keys are {', '.join(_fields_at(loc[:-1]))}"
    elif first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        if (named := _KEY.match(message)) and named[1].partition(".")[0] in Config.model_fields:
            loc, message = named[1].split("."), named[2]
            key = named[1]
    else:
        message = f"got {first['input']!r}: {first['msg']}"
    if any(override.partition("=")[0].strip() == key for override in overrides):
        return UserError(message, file="--set", place=key)
    line = _line_of(node, loc)
    return UserError(message, file=path, place=f"line {line}: {key}" if line and key else key or None)


def _fields_at(loc: Sequence[str]) -> list[str]:
    model: Any = Config
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]


def _line_of(node: Any, loc: Sequence[str]) -> int | None:
    """The line of the deepest key of ``loc`` that the file has."""
    line = None
    for part in loc:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((k, v) for k, v in node.value if k.value == part), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line

"""``reward.yaml``: which terms, with which weights and options; and the composite that it describes."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from reward.composite import CompositeReward
from reward.hub import HUB, located
from reward.term_configs import BUILT_IN, GateConfig, JudgeConfig, OwnTermConfig, TermConfig, config_class
from reward.totals import Totals
from rlrp.config import set_value, split_override
from rlrp.errors import UserError
from rlrp.files import read_text, sha256_file

VERSION = 1


def read_reward_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, TermConfig]:
    """The terms of a ``reward.yaml``, checked, in its order.

    Args:
        overrides: ``terms.NAME.OPTION=VALUE``, applied in order; NAME may have a dot (``terms.people.style.weight=0``).

    Raises:
        UserError: not YAML, an unknown key (with the nearest known one), a value of the wrong type, no terms. What an
            override is to blame for has ``--set`` in the file's place.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else None
        raise UserError(f"is not YAML: {getattr(error, 'problem', error)}", file=path, place=place) from None
    if not isinstance(data, dict):
        raise UserError(f"got {type(data).__name__}, expected `version` and `terms`", file=path)
    own = _names(data)
    keys = [_override(data, override) for override in overrides]
    try:
        return _checked(data, path)
    except UserError as error:
        place = error.place or ""
        added = [f"terms.{name}" for name in _names(data) if name not in own]
        if place.startswith((*keys, *added)) or any(key.startswith(f"{place}.") for key in keys):
            raise UserError(error.message, file="--set", place=place) from None
        raise


def _names(data: dict[Any, Any]) -> list[str]:
    """The names of the terms, as far as there are any."""
    terms = data.get("terms")
    return [str(name) for name in terms] if isinstance(terms, dict) else []


def _override(data: dict[Any, Any], override: str) -> str:
    """Apply one override to the raw mapping; returns its key."""
    key, value = split_override(override, "terms.length.weight=0")
    rest = key.removeprefix("terms.")
    own = [name for name in _names(data) if rest.startswith(f"{name}.")]
    if rest == key or not own:
        set_value(data, key.split("."), value)
    else:
        name = max(own, key=len)
        set_value(data, ["terms", name, *rest[len(name) + 1 :].split(".")], value)
    return key


def _checked(data: dict[Any, Any], path: Path) -> dict[str, TermConfig]:
    for key in data:
        if key not in ("version", "terms"):
            hint = _nearest(str(key), ["version", "terms"]) or "; there are version and terms"
            raise UserError(f"unknown key {key!r}{hint}", file=path, place=str(key))
    if data.get("version", VERSION) != VERSION:
        raise UserError(f"got {data.get('version')!r}, this program reads {VERSION}", file=path, place="version")
    terms = data.get("terms")
    if not isinstance(terms, dict) or not terms:
        raise UserError("no terms; give at least one, e.g. `blacklist: {weight: 0.5}`", file=path, place="terms")
    names = [str(name) for name in terms]
    return {name: _term_config(name, entry, path, names) for name, entry in zip(names, terms.values(), strict=True)}


def reward_path(spec: str | Path) -> Path:
    """The ``reward.yaml`` that a command line names: the file, the folder it is in, or ``hub:OWNER/NAME[/FOLDER]``.

    Raises:
        UserError: a repository that cannot be fetched, or a reward from the hub that names a class: whoever wrote it
            could run anything here.
    """
    found = located(spec)
    path = found / "reward.yaml" if found.is_dir() else found
    if str(spec).startswith(HUB):
        for name, config in read_reward_config(path).items():
            if isinstance(config, OwnTermConfig):
                problem = "a reward from the hub may not name a class; copy it, read it, and name the class yourself"
                raise UserError(problem, file=str(spec), place=f"terms.{name}.class")
    return path


def load_reward(path: str | Path, overrides: Sequence[str] = ()) -> CompositeReward:
    """The composite that a ``reward.yaml`` describes, its models loaded; ``overrides`` as in
    :func:`read_reward_config`.

    Raises:
        UserError: what :func:`read_reward_config` refuses; a model, list or class that cannot be loaded.
    """
    path = Path(path)
    built = []
    for name, config in read_reward_config(path, overrides).items():
        try:
            term = config.build(name, path.parent)
            term.name = name
        except UserError as error:
            if error.file is None:
                place = ".".join(part for part in (f"terms.{name}", error.place) if part)
                file = "--set" if any(split_override(override)[0] == place for override in overrides) else path
                raise UserError(error.message, file=file, place=place) from error
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"cannot be made: {error}", file=path, place=f"terms.{name}") from error
        built.append((term, config.weight, config.settings()))
    return CompositeReward(built)


def load_totals(path: str | Path) -> Totals:
    """What makes the totals of a ``reward.yaml``, without its terms and their models.

    Raises:
        UserError: what :func:`read_reward_config` refuses.
    """
    configs = read_reward_config(path)
    return Totals([(name, config.weight, config.settings()) for name, config in configs.items()])


def reward_hash(path: str | Path) -> str:
    """16 hexadecimal digits over everything a reward's values depend on: settings, models, lists and lexicons.

    The shipped lists and lexicons count whether a term uses them or not; the place of the files does not.
    """
    path = Path(path)
    configs = read_reward_config(path)
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for name, config in configs.items():
        stated = config.model_dump(mode="json", by_alias=True, exclude={"model"})
        digest.update(json.dumps([name, stated], sort_keys=True, ensure_ascii=False).encode())
        for file in config.files(path.parent):
            if not file.is_file():
                raise UserError("no such file", file=file, place=f"terms.{name}")
            digest.update(sha256_file(file).encode())
    for folder in ("lists", "lexicons"):
        for file in sorted(package.joinpath(folder).rglob("*")):
            if file.is_file():
                digest.update(f"{file.name} {sha256_file(file)}".encode())
    return digest.hexdigest()[:16]


def _term_config(name: str, entry: object, path: Path, names: Sequence[str]) -> TermConfig:
    place = f"terms.{name}"
    if not isinstance(entry, dict):
        raise UserError(f"got {type(entry).__name__}, expected options, e.g. {{weight: 0.5}}", file=path, place=place)
    model = config_class(name)
    if model is None and "class" not in entry:
        known = list(dict.fromkeys([*(other for other in names if other != name), *BUILT_IN]))
        hint = _nearest(name, known) or "; there are " + ", ".join(BUILT_IN)
        raise UserError(
            f"unknown term {name!r}{hint}; a term of your own needs `class: module:Class`", file=path, place=place
        )
    model = model or OwnTermConfig
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        raise _explained(error.errors()[0], model, path, place) from None


def _explained(problem: Mapping[str, Any], model: type[TermConfig], path: Path, place: str) -> UserError:
    """One line for pydantic's first complaint."""
    where = ".".join([place, *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in model.model_fields.items()]
        own = known if len(problem["loc"]) == 1 else list(GateConfig.model_fields)
        hint = _nearest(str(problem["loc"][-1]), own) or "; there are " + ", ".join(own)
        return UserError(f"unknown key {problem['loc'][-1]!r}{hint}", file=path, place=where)
    if problem["type"] == "missing":
        return UserError("missing", file=path, place=where)
    if model is JudgeConfig and problem["loc"] == ("weight",):
        message = "the judge is never optimised: its weight must be 0"
        return UserError(f"got {problem['input']!r}; {message}", file=path, place=where)
    return UserError(f"got {problem['input']!r}: {problem['msg']}", file=path, place=where)


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

"""``reward.yaml``: which terms, with which weights and options; and the composite that it describes."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from reward.composite import CompositeReward
from reward.term_configs import BUILT_IN, GateConfig, JudgeConfig, OwnTermConfig, TermConfig, config_class
from reward.totals import Totals
from rlrp.errors import UserError
from rlrp.files import read_text, sha256_file

VERSION = 1


def read_reward_config(path: str | Path) -> dict[str, TermConfig]:
    """The terms of a ``reward.yaml``, checked, in its order.

    Raises:
        UserError: not YAML, an unknown key (with the nearest known one), a value of the wrong type, no terms.
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
    for key in data:
        if key not in ("version", "terms"):
            raise UserError(f"unknown key {key!r}{_nearest(str(key), ['version', 'terms'])}", file=path, place=str(key))
    if data.get("version", VERSION) != VERSION:
        raise UserError(f"got {data.get('version')!r}, this program reads {VERSION}", file=path, place="version")
    terms = data.get("terms")
    if not isinstance(terms, dict) or not terms:
        raise UserError("no terms; give at least one, e.g. `blacklist: {weight: 0.5}`", file=path, place="terms")
    return {str(name): _term_config(str(name), entry, path) for name, entry in terms.items()}


def load_reward(path: str | Path) -> CompositeReward:
    """The composite that a ``reward.yaml`` describes, its models loaded.

    Raises:
        UserError: what :func:`read_reward_config` refuses; a model, list or class that cannot be loaded.
    """
    path = Path(path)
    built = []
    for name, config in read_reward_config(path).items():
        try:
            term = config.build(name, path.parent)
            term.name = name
        except UserError as error:
            if error.file is None:
                place = ".".join(part for part in (f"terms.{name}", error.place) if part)
                raise UserError(error.message, file=path, place=place) from error
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


def _term_config(name: str, entry: object, path: Path) -> TermConfig:
    place = f"terms.{name}"
    if not isinstance(entry, dict):
        raise UserError(f"got {type(entry).__name__}, expected options, e.g. {{weight: 0.5}}", file=path, place=place)
    model = config_class(name)
    if model is None and "class" not in entry:
        hint = _nearest(name, list(BUILT_IN)) or "; there are " + ", ".join(BUILT_IN)
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

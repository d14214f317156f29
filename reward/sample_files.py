"""Samples in JSON lines or parquet, streamed: a line or row is ``{"id", "card", "messages", "reply"}`` and more."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rlrp.cards import CharacterCard, parse_card
from rlrp.dialogue.types import Message, Role, Sample
from rlrp.errors import UserError
from rlrp.files import read_jsonl

_KEYS = ("id", "card", "messages", "reply")
_CARDS_REMEMBERED = 256
_ROWS = 256
"""Parquet rows held in memory at a time."""


@dataclass(frozen=True)
class SampleLine:
    """One sample, where it stands (``line 3``, ``row 3``), and everything else that stands there."""

    place: str
    identifier: str | int
    sample: Sample
    values: Mapping[str, Any]


def is_parquet(path: str | Path) -> bool:
    return Path(path).suffix.lower() in (".parquet", ".pq")


def read_sample_lines(path: str | Path) -> Iterator[SampleLine]:
    """Each line's sample, streamed. Equal cards become one object, which the terms need to read only once.

    In parquet ``card`` and ``messages`` may be nested values or JSON text.

    Raises:
        UserError: a line that is no sample; file, line and field are named.
    """
    path = Path(path)
    cards: OrderedDict[str, CharacterCard] = OrderedDict()
    for place, line in _parquet_rows(path) if is_parquet(path) else _json_lines(path):
        for key in _KEYS:
            if key not in line:
                raise UserError(f"missing; a line has {', '.join(_KEYS)}", file=path, place=f"{place}, {key}")
        identifier, reply = line["id"], line["reply"]
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            raise _wrong(identifier, "text or a whole number", path, f"{place}, id")
        if not isinstance(reply, str):
            raise _wrong(reply, "text", path, f"{place}, reply")
        messages = _messages(line["messages"], path, f"{place}, messages")
        sample = Sample(_card(line["card"], cards, path, place), messages, encodable(reply))
        name = encodable(identifier) if isinstance(identifier, str) else identifier
        yield SampleLine(place, name, sample, line)


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"line {number}", line) for number, line in read_jsonl(path))


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError("no such file", file=path)
    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    place = f"row {number}"
                    yield place, {key: _nested(key, value, path, place) for key, value in row.items()}
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text (byte {error.start})", file=path, place=f"after row {number}") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"is not parquet: {error}", file=path) from None


def _nested(key: str, value: Any, path: Path, place: str) -> Any:
    """JSON text where something nested is expected; missing fields of a nested card are no fields."""
    if key in ("card", "messages", "ratings") and isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UserError(f"is not JSON: {error}", file=path, place=f"{place}, {key}") from None
    if isinstance(value, dict):
        return {name: own for name, own in value.items() if own is not None}
    return value


def _card(value: object, known: OrderedDict[str, CharacterCard], path: Path, place: str) -> CharacterCard:
    try:
        key = json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        raise UserError("is no JSON value", file=path, place=f"{place}, card") from None
    if key in known:
        known.move_to_end(key)
        return known[key]
    try:
        card = parse_card(value)
    except UserError as error:
        where = ", ".join(part for part in (place, "card", error.place) if part)
        raise UserError(error.message, file=path, place=where) from error
    known[key] = card
    if len(known) > _CARDS_REMEMBERED:
        known.popitem(last=False)
    return card


def _messages(value: object, path: Path, place: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise _wrong(value, "a list", path, place)
    return tuple(_message(item, path, f"{place}[{at}]") for at, item in enumerate(value))


def _message(value: object, path: Path, place: str) -> Message:
    if not isinstance(value, Mapping):
        raise _wrong(value, "an object with role and content", path, place)
    content = value.get("content")
    role: Role | None = next((known for known in get_args(Role) if known == value.get("role")), None)
    if role is None:
        expected = ", ".join(get_args(Role))
        raise UserError(f"got {value.get('role')!r}, expected one of {expected}", file=path, place=f"{place}.role")
    if not isinstance(content, str):
        raise _wrong(content, "text", path, f"{place}.content")
    return Message(role, encodable(content))


def encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can escape and no UTF-8 file or tokenizer can take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _wrong(value: Any, expected: str, path: Path, place: str) -> UserError:
    return UserError(f"got {type(value).__name__}, expected {expected}", file=path, place=place)

"""``rlrp reward score``: replies from a JSON-lines file in, judgements out, a batch in memory at a time."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from reward.config import load_reward
from rlrp.cards import CharacterCard, parse_card
from rlrp.dialogue.types import Message, Role, Sample
from rlrp.errors import UserError
from rlrp.files import atomic_path, read_jsonl
from rlrp.protocols import Judgement

_KEYS = ("id", "card", "messages", "reply")
_CARDS_REMEMBERED = 256


def score_file(reward_yaml: str | Path, in_path: str | Path, out_path: str | Path, batch: int = 64) -> int:
    """Score every line of a file; the output is whole or not there, and in the same order.

    A line is ``{"id", "card": {card object, or its plain "name" and "description"}, "messages": [{"role", "content"}],
    "reply"}``; a line out is ``{"id", "total", "terms": {name: number or null}, "reasons": {name: [text]}}``. Samples
    have no group here, so that an abstention is imputed by the term's ``neutral`` value.

    Args:
        batch: samples judged, and held in memory, at a time.

    Returns:
        The number of samples.

    Raises:
        UserError: a line that cannot be used (file and line are named), or a reward that cannot be loaded.
    """
    if batch < 1:
        raise UserError(f"got {batch}, expected at least 1", place="batch")
    composite = load_reward(reward_yaml)
    lines = read_samples(in_path)
    started, count = time.perf_counter(), 0
    with atomic_path(out_path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        while part := list(islice(lines, batch)):
            judgements = composite.score_one_by_one([sample for _, sample in part])
            for (identifier, _), judgement in zip(part, judgements, strict=True):
                stream.write(_line(identifier, judgement))
            count += len(part)
    _say(count, time.perf_counter() - started)
    return count


def read_samples(path: str | Path) -> Iterator[tuple[str | int, Sample]]:
    """Each line's id and sample, streamed. Equal cards become one object, which the terms need to read only once.

    Raises:
        UserError: a line that is no sample; file, line and field are named.
    """
    path = Path(path)
    cards: OrderedDict[str, CharacterCard] = OrderedDict()
    for number, line in read_jsonl(path):
        place = f"line {number}"
        for key in _KEYS:
            if key not in line:
                raise UserError(f"missing; a line has {', '.join(_KEYS)}", file=path, place=f"{place}, {key}")
        identifier, reply = line["id"], line["reply"]
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            raise _wrong(identifier, "text or a whole number", path, f"{place}, id")
        if not isinstance(reply, str):
            raise _wrong(reply, "text", path, f"{place}, reply")
        messages = _messages(line["messages"], path, f"{place}, messages")
        yield identifier, Sample(_card(line["card"], cards, path, place), messages, _encodable(reply))


def _card(value: object, known: OrderedDict[str, CharacterCard], path: Path, place: str) -> CharacterCard:
    key = json.dumps(value, sort_keys=True)
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
    return Message(role, _encodable(content))


def _encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can escape and no UTF-8 file or tokenizer can take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _wrong(value: Any, expected: str, path: Path, place: str) -> UserError:
    return UserError(f"got {type(value).__name__}, expected {expected}", file=path, place=place)


def _line(identifier: str | int, judgement: Judgement) -> str:
    value = {
        "id": identifier,
        "total": judgement.total,
        "terms": judgement.terms,
        "reasons": {name: list(reasons) for name, reasons in judgement.reasons.items()},
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _say(count: int, seconds: float) -> None:
    from rich.console import Console

    rate = f"{count / seconds:.0f} a second" if seconds > 0 else "no time"
    Console(stderr=True).print(f"scored {count} replies in {seconds:.1f} s ({rate})", highlight=False)

"""JSON and files as untrusted input: bounded, strict, and never an error other than the user's."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from rlrp.errors import UserError

MAX_FILE_BYTES = 128 * 2**20
"""Card images with animation stay far below; anything above is not a card."""

MAX_CARD_BYTES = 16 * 2**20
"""Bound on one card's JSON after decompression: a thousand times a long card, a bomb's first step."""

_MAX_NESTING = 64
"""Deeper JSON would hit the recursion limit later, in json.dumps, copy or pickle."""


def load_json(data: bytes, *, file: str | Path | None = None, place: str | None = None) -> Any:
    """Parse UTF-8 JSON (a byte order mark is allowed; NaN and Infinity are not)."""
    if len(data) > MAX_CARD_BYTES:
        raise UserError(f"{len(data)} bytes of JSON; at most {MAX_CARD_BYTES} are read", file=file, place=place)
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_reject_constant)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 at byte {error.start}; save it as UTF-8", file=file, place=place) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise UserError(f"not JSON: {error.msg} at {where}", file=file, place=place) from error
    except ValueError as error:
        raise UserError(f"not JSON: {error}", file=file, place=place) from error
    except RecursionError as error:
        raise UserError("JSON nested too deeply", file=file, place=place) from error
    if _nesting(value) > _MAX_NESTING:
        raise UserError(f"JSON nested more than {_MAX_NESTING} levels deep", file=file, place=place)
    return value


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _nesting(value: object) -> int:
    """How many arrays and objects lie inside one another at the deepest place."""
    depth, level = 0, [value]
    while level:
        level = [child for item in level for child in _children(item)]
        depth += 1
    return depth - 1


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def dump_json(value: object, *, indent: int | None = None) -> bytes:
    """UTF-8 JSON with the text readable as it is; half characters (lone surrogates) stay escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, indent=indent, allow_nan=False).encode("ascii")


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file of at most ``MAX_FILE_BYTES``."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot be read: {reason}", file=path) from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"larger than {MAX_FILE_BYTES} bytes; not a card", file=path)
    return data


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, then a rename."""
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:50]}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, _file_mode(target))
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", file=path) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _file_mode(target: Path) -> int:
    """The mode of the file being replaced, or that of any new file: mkstemp's own is private to the user."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask

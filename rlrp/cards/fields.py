"""Typed access to the fields of a JSON object; every mistake names the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrp.errors import UserError

_TYPE_NAMES = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def type_name(value: object) -> str:
    """The JSON name of a value's type, for messages."""
    return "null" if value is None else _TYPE_NAMES.get(type(value), type(value).__name__)


@dataclass
class Fields:
    """A JSON object being read. Fields that were asked for are not in ``rest()``.

    ``null`` counts as absent: exporters write it for optional fields, and no field of a card gives it a meaning.
    """

    values: Mapping[str, Any]
    file: str | Path | None = None
    place: str = ""
    _used: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, value: object, *, file: str | Path | None, place: str = "") -> Fields:
        """Check that ``value`` is an object."""
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise UserError(f"got {type_name(value)}, expected an object", file=file, place=place or None)
        return cls(value, file, place)

    def error(self, key: str, message: str) -> UserError:
        """An error about one field, to be raised."""
        return UserError(message, file=self.file, place=self.path(key))

    def path(self, key: str) -> str:
        """The field's place in the file, such as ``data.character_book.entries[3].keys``."""
        return f"{self.place}.{key}" if self.place else key

    def take(self, key: str) -> Any:
        """The raw value, or None."""
        self._used.add(key)
        return self.values.get(key)

    def rest(self) -> dict[str, Any]:
        """The fields nobody asked for."""
        return {key: value for key, value in self.values.items() if key not in self._used}

    def text(self, key: str) -> str:
        """A string, "" when absent."""
        value = self.take(key)
        return "" if value is None else self._check_text(value, key)

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings, empty when absent."""
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise self.error(key, f"got {type_name(value)}, expected an array of strings")
        return tuple(self._check_text(item, f"{key}[{index}]") for index, item in enumerate(value))

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"got {type_name(value)}, expected true or false")
        return value

    def number(self, key: str) -> float | None:
        """A finite number; None when absent."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"got {type_name(value)}, expected a number")
        if not -(2**53) < value < 2**53:  # also false for infinity and NaN
            raise self.error(key, "expected a number below 2^53")
        return value

    def limit(self, key: str) -> int | None:
        """A count used as an upper limit; None when absent or negative, both of which mean no limit."""
        value = self.number(key)
        return None if value is None or value < 0 else int(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """An object, empty when absent."""
        value = self.take(key)
        if value is None:
            return {}
        return dict(Fields.of(value, file=self.file, place=self.path(key)).values)

    def _check_text(self, value: object, key: str) -> str:
        if not isinstance(value, str):
            raise self.error(key, f"got {type_name(value)}, expected a string")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            # Tokenizers refuse such text much later, without saying where it came from.
            raise self.error(key, f"half a character (lone surrogate) at position {error.start}") from error
        return value

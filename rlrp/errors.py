"""The exceptions that the command line turns into one line: the user's mistakes (exit code 2), runs that end (1)."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """A mistake of the user's: what is wrong, where, and what would be right, in one line.

    Args:
        message: what is wrong and what would be right.
        file: the file it is in, if any.
        place: a line number, a key such as ``rl.group_size``, or a field inside the file.
    """

    def __init__(self, message: str, *, file: str | Path | None = None, place: str | None = None):
        self.message = " ".join(str(message).split())
        self.file = str(file) if file is not None else None
        self.place = place
        super().__init__(": ".join(part for part in (self.file, self.place, self.message) if part))

    def __reduce__(self) -> tuple[object, ...]:
        # Ray pickles errors across processes; the default would rebuild from the joined text alone.
        return _rebuild, (self.message, self.file, self.place)


class RunStopped(RuntimeError):
    """A run cannot go on, and its message, one line, says all there is to say: exit code 1 without a traceback."""


def first_line(error: Exception, limit: int) -> str:
    """What a library's error begins with, at most ``limit`` characters; its type if it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:limit]


def _rebuild(message: str, file: str | None, place: str | None) -> UserError:
    return UserError(message, file=file, place=place)

"""Progress of work that takes more than two seconds: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0


class progress:
    """A context manager that yields ``advance(n)``; ``total`` is in the unit that ``advance`` counts, None if it is
    not known."""

    def __init__(self, title: str, total: int | None):
        self.title, self.total, self.done, self.shown = title, total, 0, time.monotonic()
        console = Console(stderr=True)
        self.bar = Progress(console=console) if console.is_terminal else None

    def __enter__(self) -> Callable[[int], None]:
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total)
        return self.advance

    def advance(self, n: int = 1) -> None:
        self.done += n
        if self.bar:
            self.bar.advance(self.task, n)
        elif n and (time.monotonic() - self.shown > _SECONDS_BETWEEN_LINES or 0 < (self.total or 0) <= self.done):
            self.shown = time.monotonic()
            print(f"{self.title}: {self.done}/{self.total or '?'}", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

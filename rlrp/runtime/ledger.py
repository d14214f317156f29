"""The ledger of a run: what became of every draw, a line each: nothing is learnt from twice and nothing is lost."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rlrp.files import read_jsonl, write_text

Outcome = Literal["trained", "equal", "dropped", "quarantined"]
FILE = "ledger.jsonl"


@dataclass(frozen=True)
class Entry:
    """What became of a draw."""

    draw: int
    prompt_id: str
    version: int
    """Steps of the policy that it was sampled from."""
    tries: int
    """How often it was handed out, for sampling and judging, with what its actors' deaths made necessary."""
    outcome: Outcome
    """``trained``; ``equal``: its rewards were, another was drawn instead; ``dropped``: too old, drawn again;
    ``quarantined``: given up, because it took too many actors with it."""
    cause: str | None = None


class Ledger:
    """Appends the entries of each step; on resume, those of steps that will be done again go first."""

    def __init__(self, folder: Path, start: int = 0):
        self.path = folder / FILE
        keep_steps(self.path, start)
        self.stream = self.path.open("a", encoding="utf-8")

    def write(self, step: int, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.stream.write(json.dumps({"step": step + 1, **asdict(entry)}, ensure_ascii=False) + "\n")
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def close(self) -> None:
        self.stream.close()


def read_ledger(folder: Path) -> list[tuple[int, Entry]]:
    """The entries and the steps (from 1) they belong to; nothing if there is no ledger yet."""
    path = folder / FILE
    rows = [row for _, row in read_jsonl(path)] if path.exists() else []
    return [(row.pop("step"), Entry(**row)) for row in rows]


def check_ledger(entries: Sequence[tuple[int, Entry]], *, ahead: int = 0) -> list[str]:
    """What is wrong with a ledger: draws used up twice, or never though later ones were, and steps without any.

    Args:
        ahead: how many draws may still be on their way: with staleness, a late one comes after others.
    """
    used = Counter(entry.draw for _, entry in entries if entry.outcome != "dropped")
    problems = [f"draw {draw} was used up {count} times" for draw, count in sorted(used.items()) if count > 1]
    last = max(used, default=-1)
    missing = [draw for draw in range(last + 1) if draw not in used]
    problems += [f"draw {draw} is missing" for draw in missing if len(missing) > ahead]
    steps = [step for step, _ in entries]
    problems += [f"step {step} is missing" for step in range(1, max(steps, default=0)) if step not in set(steps)]
    return problems


def keep_steps(path: Path, steps: int) -> None:
    """Drop the lines after the first ``steps`` steps; an unfinished last line goes with them."""
    if not path.exists():
        return
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    write_text(path, "".join(line for line in whole if json.loads(line)["step"] <= steps))

"""``rlrp status RUN``: what a run directory says of its run, whether that is running, done or dead. Only reads."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import yaml

from rlrp.errors import UserError
from rlrp.files import read_text
from rlrp.live import duration, named, step_seconds, term_names
from rlrp.runtime.checkpoints import newest_checkpoint
from rlrp.runtime.ledger import FILE as LEDGER
from rlrp.runtime.ledger import Entry, check_ledger

ERROR = "error.txt"
"""What ended the run, if it could still say so: the time, the error in a line, its traceback."""
_PATIENCE = 5.0
"""A run that has not written for so many steps' time looks dead ..."""
_LEAST_PATIENCE_S = 300.0
"""... but not before this many seconds: checkpoints and evaluations take time too."""
State = Literal["starting", "running", "silent", "failed", "finished"]


@dataclass
class Status:
    """All that is known; of pairs, the first is the mean of the first steps and the second of the last."""

    run: str
    name: str
    state: State
    step: int
    steps: int
    age_s: float
    """Seconds since anything was written."""
    step_s: float | None = None
    """Median seconds of a step."""
    checkpoint: str | None = None
    checkpoint_step: int | None = None
    checkpoint_problem: str | None = None
    """Why the newest checkpoint cannot be used; the one before it would be."""
    reward: dict[str, tuple[float, float]] = field(default_factory=dict)
    kl: tuple[float, float] | None = None
    tokens_per_second: dict[str, float] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    draws: int | None = None
    """Entries of the ledger; null without one."""
    outcomes: dict[str, int] = field(default_factory=dict)
    ledger_problems: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    """Prompts that were given up, with the cause where it is known."""
    error: str | None = None


def read_status(run: Path, now: float | None = None) -> Status:
    """Read a run directory.

    Raises:
        UserError: there is none, it holds no run, or a file in it is damaged.
    """
    config = _read_config(run)
    metrics = run / "metrics.jsonl"
    rows = whole_rows(metrics)
    if rows and not all(isinstance(row.get("step"), int) for row in rows):
        raise UserError("has a line without a step", file=metrics)
    error = _read_error(run)
    written = [path.stat().st_mtime for path in (run / "config.yaml", metrics, run / LEDGER) if path.exists()]
    status = Status(
        run=str(run),
        name=str(config.get("name", run.name)),
        state="starting",
        step=int(rows[-1]["step"]) if rows else 0,
        steps=int(config["rl"]["steps"]),
        age_s=max(0.0, (time.time() if now is None else now) - max(written)),
        error=error,
    )
    if rows:
        _add_metrics(status, rows)
    _add_checkpoint(status, run)
    _add_ledger(status, run, config)
    status.state = _state(status)
    return status


def print_status(status: Status, *, as_json: bool = False) -> None:
    print(json.dumps(asdict(status), ensure_ascii=False) if as_json else "\n".join(describe(status)))


def describe(status: Status) -> list[str]:
    """The status in lines of ``title: text``."""
    pace = f", {status.step_s:.1f} s a step" if status.step_s is not None else ""
    parts: list[tuple[str, str]] = [
        ("run", f"{status.name} ({status.run})"),
        ("state", _said(status)),
        ("step", f"{status.step} of {status.steps}{pace}"),
        ("written", f"{duration(status.age_s)} ago"),
        ("checkpoint", _checkpoint_text(status)),
    ]
    parts += [(f"reward/{name}", f"{first:+.3f} -> {last:+.3f}") for name, (first, last) in status.reward.items()]
    if status.kl:
        parts.append(("kl", f"{status.kl[0]:.4f} -> {status.kl[1]:.4f}"))
    parts.append(("tokens/s", ", ".join(f"{pool} {speed:.0f}" for pool, speed in status.tokens_per_second.items())))
    parts.append(("restarts", ", ".join(f"{pool} {n}" for pool, n in status.restarts.items())))
    if status.draws is not None:
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in status.outcomes.items())
        parts.append(
            ("ledger", f"{outcomes or 'empty'}; " + ("; ".join(status.ledger_problems) or "no gap, no double"))
        )
    parts.append(("quarantined", ", ".join(status.quarantined)))
    parts.append(("error", status.error or ""))
    return [f"{title + ':':12} {text}" for title, text in parts if text]


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file that may still be written, or was when its writer was killed: a last line without
    its end is left out.

    Raises:
        UserError: another line is no JSON object.
    """
    if not path.exists():
        return []
    lines = [line for line in read_text(path).splitlines(keepends=True) if line.endswith("\n") and line.strip()]
    rows = []
    for number, text in enumerate(lines, 1):
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError("is damaged: not a JSON object", file=path, place=f"line {number}")
        rows.append(row)
    return rows


def _read_config(run: Path) -> dict[str, Any]:
    if not run.is_dir():
        raise UserError("no such folder" if not run.exists() else "is a file, expected a run directory", file=run)
    path = run / "config.yaml"
    if not path.exists():
        raise UserError("is no run directory: it has no config.yaml", file=run)
    try:
        config = yaml.safe_load(read_text(path))
    except yaml.YAMLError:
        config = None
    if not isinstance(config, dict) or not isinstance((config.get("rl") or {}).get("steps"), int):
        raise UserError("is damaged: it does not say rl.steps", file=path)
    return config


def _read_error(run: Path) -> str | None:
    path = run / ERROR
    lines = read_text(path).splitlines() if path.exists() else []
    return lines[1] if len(lines) > 1 else None


def _add_metrics(status: Status, rows: Sequence[Mapping[str, Any]]) -> None:
    width = max(1, min(5, len(rows) // 2))
    last = rows[-1]
    status.step_s = median(step_seconds(row) for row in rows)
    for name in term_names(last):
        if pair := _ends(rows, f"reward/{name}", width):
            status.reward[name] = pair
    status.kl = _ends(rows, "kl", width)
    status.tokens_per_second = named(last, "tokens_per_second/")
    status.restarts = {pool: int(n) for pool, n in named(last, "restarts/").items()}


def _ends(rows: Sequence[Mapping[str, Any]], key: str, width: int) -> tuple[float, float] | None:
    values = [float(row[key]) for row in rows if isinstance(row.get(key), int | float)]
    return (fmean(values[:width]), fmean(values[-width:])) if values else None


def _add_checkpoint(status: Status, run: Path) -> None:
    if found := newest_checkpoint(run):
        folder, problem = found
        status.checkpoint, status.checkpoint_problem = str(folder), problem
        status.checkpoint_step = int(folder.name.removeprefix("step-"))


def _add_ledger(status: Status, run: Path, config: Mapping[str, Any]) -> None:
    path = run / LEDGER
    if not path.exists():
        return
    try:
        entries = [(int(row.pop("step")), Entry(**row)) for row in whole_rows(path)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"is damaged: {error}", file=path) from None
    status.draws = len(entries)
    for _, entry in entries:
        status.outcomes[entry.outcome] = status.outcomes.get(entry.outcome, 0) + 1
    given_up = [entry for _, entry in entries if entry.outcome == "quarantined"]
    status.quarantined = [f"{e.prompt_id} ({e.cause})" if e.cause else e.prompt_id for e in given_up]
    ahead = int(config["rl"].get("staleness", 0)) * int(config["rl"].get("prompts", 0))
    status.ledger_problems = check_ledger(entries, ahead=ahead)


def _state(status: Status) -> State:
    if status.error:
        return "failed"
    if status.step >= status.steps:
        return "finished"
    if status.age_s > max(_LEAST_PATIENCE_S, _PATIENCE * (status.step_s or 0.0)):
        return "silent"
    return "running" if status.step else "starting"


def _said(status: Status) -> str:
    left = duration((status.steps - status.step) * (status.step_s or 0.0))
    return {
        "starting": "before its first step",
        "running": f"running, about {left} left",
        "silent": "looks dead: it has not written for longer than its steps take",
        "failed": "ended with an error; the same command goes on from the last checkpoint",
        "finished": "finished",
    }[status.state]


def _checkpoint_text(status: Status) -> str:
    if status.checkpoint is None:
        return "none yet"
    condition = (
        f"{status.checkpoint_problem}; the one before it would be used" if status.checkpoint_problem else "whole"
    )
    return f"step {status.checkpoint_step} ({status.checkpoint}), {condition}"

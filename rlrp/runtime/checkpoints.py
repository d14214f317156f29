"""Checkpoints: what peft or transformers loads plus the training state, whole or absent, verified before use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlrp.errors import UserError
from rlrp.files import atomic_folder, read_json, sha256_file, write_json

STATE = "training_state.json"
OWN = "own_sha256"
"""The digest of all else in that file."""


def save_checkpoint(
    run: Path,
    step: int,
    write: Callable[[str], None],
    state: dict[str, Any],
    *,
    keep: int = 2,
    score: float | None = None,
) -> Path:
    """Write ``checkpoints/step-N`` by ``write(folder)`` and point ``last`` at it.

    The newest ``keep`` stay, and the one with the highest ``score``, which ``best`` points at.
    """
    folder = run / "checkpoints" / f"step-{step:06d}"
    with atomic_folder(folder) as temporary:
        write(str(temporary))
        files = {str(p.relative_to(temporary)): sha256_file(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        whole = json.loads(json.dumps({"step": step, "score": score, **state, "sha256": files}))
        write_json(temporary / STATE, {**whole, OWN: _digest(whole)})
    point_last(folder)
    newest = _newest_first(run)
    at = newest.index(folder)
    best = _best(newest[at:])
    if best is not None:
        _point(folder.with_name("best"), best)
    # What lies beyond this step was damaged, or this run would have gone on from it.
    for old in newest[:at] + newest[at + keep :]:
        if old != best:
            shutil.rmtree(old)
    for unfinished in folder.parent.glob(".step-*"):  # of a process that was killed while it wrote
        shutil.rmtree(unfinished)
    for unfinished in (*folder.parent.glob(".last-*"), *folder.parent.glob(".best-*")):
        unfinished.unlink()
    return folder


def point_last(folder: Path) -> None:
    """Have ``last`` point at a checkpoint: the newest, or the newest that is whole."""
    _point(folder.with_name("last"), folder)


def _point(link: Path, folder: Path) -> None:
    new = link.with_name(f".{link.name}-{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(folder.name)
    os.replace(new, link)


def _best(folders: Sequence[Path]) -> Path | None:
    """The folder with the highest score, the newest of equals; None if none has a score."""
    scores = [(score, folder) for folder in folders if (score := _score(folder)) is not None]
    return max(scores, key=lambda pair: (pair[0], pair[1].name))[1] if scores else None


def _score(folder: Path) -> float | None:
    if _damage(folder):
        return None
    score = read_json(folder / STATE).get("score")
    return None if score is None else float(score)


def latest_checkpoint(run: Path, *, settings: str, warn: bool = True) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose files are what they were when written, and its state.

    Args:
        warn: say which newer ones are damaged.

    Raises:
        UserError: it was made with other settings, so going on from it would be another experiment.
    """
    for folder in _newest_first(run):
        if problem := _damage(folder):
            if warn:
                print(f"{folder}: {problem}; the checkpoint before it is used", file=sys.stderr, flush=True)
            continue
        state: dict[str, Any] = read_json(folder / STATE)
        if state.get("settings") != settings:
            raise UserError(
                "was made with other settings; choose another `run_dir`, or remove the folder to start again",
                file=folder,
            )
        return folder, state
    return None


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _newest_first(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-[0-9]*"), reverse=True)


def _damage(folder: Path) -> str | None:
    try:
        state = read_json(folder / STATE)
        own, expected = state.pop(OWN), dict(state["sha256"])
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        return f"{STATE} is missing or damaged"
    if _digest(state) != own:
        return f"{STATE} is damaged"
    for name, digest in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_file(folder / name) != digest:
            return f"{name} is damaged"
    return None


def newest_checkpoint(run: Path) -> tuple[Path, str | None] | None:
    """The newest checkpoint and what is wrong with it (None: it is whole), whatever settings it was made with."""
    newest = _newest_first(run)
    return (newest[0], _damage(newest[0])) if newest else None

"""Checkpoints: a PEFT adapter directory plus the training state, whole or absent, verified before use."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlrp.errors import UserError
from rlrp.files import atomic_folder, read_json, sha256_file, write_json

STATE = "training_state.json"


def save_checkpoint(
    run: Path, step: int, write: Callable[[str], None], state: dict[str, Any], *, keep: int = 2
) -> Path:
    """Write ``checkpoints/step-N`` by ``write(folder)``, point ``last`` at it, and drop all but the newest ``keep``."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    with atomic_folder(folder) as temporary:
        write(str(temporary))
        files = {str(p.relative_to(temporary)): sha256_file(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
        write_json(temporary / STATE, {"step": step, **state, "sha256": files})
    link = folder.with_name(f".last-{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    os.replace(link, folder.with_name("last"))
    newest = _newest_first(run)
    at = newest.index(folder)
    # What lies beyond this step was damaged, or this run would have gone on from it.
    for old in newest[:at] + newest[at + keep :]:
        shutil.rmtree(old)
    return folder


def latest_checkpoint(run: Path, *, settings: str) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint whose files are what they were when written, and its state.

    Raises:
        UserError: it was made with other settings, so going on from it would be another experiment.
    """
    for folder in _newest_first(run):
        if problem := _damage(folder):
            print(f"{folder}: {problem}; the checkpoint before it is used", file=sys.stderr)
            continue
        state: dict[str, Any] = read_json(folder / STATE)
        if state.get("settings") != settings:
            raise UserError(
                "was made with other settings; choose another `run_dir`, or remove the folder to start again",
                file=folder,
            )
        return folder, state
    return None


def _newest_first(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-[0-9]*"), reverse=True)


def _damage(folder: Path) -> str | None:
    try:
        expected = dict(read_json(folder / STATE)["sha256"])
    except (UserError, KeyError, TypeError, ValueError):
        return f"{STATE} is missing or damaged"
    for name, digest in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_file(folder / name) != digest:
            return f"{name} is damaged"
    return None

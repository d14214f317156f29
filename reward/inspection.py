"""``rlrp reward inspect``: what a reward is made of, and what is known of its models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reward.config import read_reward_config, reward_hash
from reward.model_files import CONFIG
from reward.term_configs import TermConfig
from rlrp.errors import UserError
from rlrp.files import read_json
from rlrp.printable import printable

_BASE = frozenset(TermConfig.model_fields)


def inspect_reward(path: str | Path, *, console: Console | None = None) -> None:
    """Print a ``reward.yaml`` (terms, weights, gates, options, version hash) or a model directory.

    Raises:
        UserError: neither of the two, or one that cannot be read.
    """
    path, console = Path(path), console or Console()
    if (path / CONFIG).is_file():
        _print_model(path, console)
        return
    if path.is_dir():
        path = path / "reward.yaml"
        if not path.is_file():
            raise UserError(f"is no model directory (no {CONFIG}) and holds no reward.yaml", file=path.parent)
    configs = read_reward_config(path)
    console.print(Text(f"{path}  version {reward_hash(path)}", style="bold"))
    table = Table(box=None, pad_edge=False)
    table.add_column("term", no_wrap=True)
    table.add_column("weight", justify="right", no_wrap=True)
    for name in ("where it abstains", "gate", "options"):
        table.add_column(name, overflow="fold")
    for name, config in configs.items():
        stated = config.model_dump(mode="json", by_alias=True, exclude_none=True)
        gate = f"below {config.gate.below:g}: at most {config.gate.cap:g}" if config.gate else ""
        options = ", ".join(f"{key} {value}" for key, value in stated.items() if key not in _BASE and value != {})
        if config.normalise != "none":
            options = ", ".join(part for part in (f"by {config.normalise}", options) if part)
        neutral = "the group's mean, else " + f"{config.neutral:g}"
        weight = f"{config.weight:g}" if config.weight else "logged"
        table.add_row(Text(printable(name)), weight, neutral, gate, Text(printable(options)))
    console.print(table)
    for name, config in configs.items():
        for file in config.files(path.parent):
            if file.name == CONFIG:
                console.print()
                _print_model(file.parent, console, title=name)


def _print_model(folder: Path, console: Console, title: str | None = None) -> None:
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"got {type(config).__name__}, expected an object", file=folder / CONFIG)
    head = f"{title or folder.name}  {config.get('format', '?')} version {config.get('version', '?')}"
    console.print(Text(printable(head), style="bold"))
    for key in ("languages", "training", "measured"):
        if key in config:
            console.print(Text(printable(f"  {key}: {_short(config[key])}")))


def _short(value: Any, depth: int = 0) -> str:
    """A nested value on one line, long lists by their length."""
    if isinstance(value, Mapping):
        if depth == 2:
            return f"{{{len(value)} entries}}"
        return ", ".join(f"{key} {_short(own, depth + 1)}" for key, own in value.items())
    if isinstance(value, list) and len(value) > 4:
        return f"({len(value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

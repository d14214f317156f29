"""A run as it goes: a table that stays in place on a terminal, a line a step in a job's log."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from statistics import fmean, median
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
_KEPT = 60
"""Steps that the terminal's view looks back on."""
_BLOCKS = "▁▂▃▄▅▆▇█"


class StepView:
    """A context manager; call it with each step's row of metrics (``RunLog``'s), of which every key is optional."""

    def __init__(self, name: str, steps: int, console: Console | None = None):
        self.name, self.steps = name, steps
        self.rows: deque[Row] = deque(maxlen=_KEPT)
        console = console or Console()
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> StepView:
        if self.live:
            self.live.start()
        return self

    def __call__(self, row: Row) -> None:
        self.rows.append(row)
        if self.live:
            self.live.update(render(self.name, self.steps, list(self.rows)), refresh=True)
        else:
            print(line(row, self.steps), flush=True)

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()


def line(row: Row, steps: int) -> str:
    """A step in one line of a log: only what this run has."""
    parts = [f"step {row['step']:3d}/{steps}"]
    if (total := _number(row, "reward/total")) is not None:
        parts.append(f"reward {total:+.3f}")
    parts += [f"{k.removeprefix('reward/')} {row[k]:.3f}" for k in ("reward/in_character", "judge") if k in row]
    parts += [f"kl {row['kl']:.4f}"] if _number(row, "kl") is not None else []
    parts += [f"tokens {row['reply_tokens']:.0f}"] if "reply_tokens" in row else []
    parts += [f"{pool} {speed:.0f} tok/s" for pool, speed in named(row, "tokens_per_second/").items()]
    waiting = named(row, "queue/")
    parts += ["queue " + "/".join(f"{depth:.0f}" for depth in waiting.values())] if any(waiting.values()) else []
    parts += [f"{pool} restarted {n:.0f}x" for pool, n in named(row, "restarts/").items() if n]
    parts += [f"{name} {row[name]:.0f}" for name in ("dropped", "quarantined") if row.get(name)]
    parts.append(f"{step_seconds(row):.1f} s")
    return "  ".join(parts)


def step_seconds(row: Row) -> float:
    """What a step took: its phases overlap, and have a total; before anything logged one, they are summed."""
    phases = named(row, "seconds/")
    return phases.get("step", sum(phases.values()))


def named(row: Row, prefix: str) -> dict[str, float]:
    """The numbers of the keys with a prefix, without it."""
    found = {key.removeprefix(prefix): _number(row, key) for key in row if key.startswith(prefix)}
    return {name: value for name, value in found.items() if value is not None}


def term_names(row: Row) -> list[str]:
    """The reward's terms in a row, the total first."""
    names = [name for name in named(row, "reward/") if not name.endswith("_std")]
    return sorted(names, key=lambda name: (name != "total", name))


def render(name: str, steps: int, rows: list[Row]) -> RenderableType:
    """The view of a terminal; it fits in 80 columns."""
    last = rows[-1]
    left = max(0, steps - int(last["step"])) * median(step_seconds(row) for row in rows)
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(name, style="bold"),
        ProgressBar(total=steps, completed=int(last["step"]), width=24),
        Text(f"step {last['step']}/{steps}, about {duration(left)} left"),
    )
    parts: list[RenderableType] = [head, _terms(rows)]
    for title, text in (
        ("KL", _kl(last)),
        ("tokens/s", _pairs(named(last, "tokens_per_second/").items(), "{:.0f}")),
        ("seconds", _pairs(named(last, "seconds/").items(), "{:.1f}")),
        ("queue", _pairs(named(last, "queue/").items(), "{:.0f}")),
        ("restarts", _pairs(named(last, "restarts/").items(), "{:.0f}")),
        ("lost", _pairs(((k, last[k]) for k in ("dropped", "quarantined") if last.get(k)), "{:.0f}")),
    ):
        if text:
            parts.append(Text(f"{title:9} {text}"))
    return Group(*parts)


def duration(seconds: float) -> str:
    """``95`` is ``1 min 35 s``; hours have no seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def spark(values: Iterable[float]) -> str:
    """A curve in one line, a block a value, from the lowest to the highest."""
    values = list(values)
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in values)


def _terms(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("reward")
    for title in ("now", "last 10"):
        table.add_column(title, justify="right")
    table.add_column("")
    for name in term_names(rows[-1]):
        values = [v for row in rows if (v := _number(row, f"reward/{name}")) is not None]
        # Text, because rich would read a term's "[name]" as a style.
        table.add_row(Text(name), f"{values[-1]:+.3f}", f"{fmean(values[-10:]):+.3f}", spark(values[-24:]))
    return table


def _kl(row: Row) -> str:
    value, coefficient = _number(row, "kl"), _number(row, "kl_coef")
    if value is None:
        return ""
    return f"{value:.4f}" + (f" (coefficient {coefficient:.3g})" if coefficient is not None else "")


def _pairs(pairs: Iterable[tuple[str, float]], form: str) -> str:
    return "  ".join(f"{name} {form.format(value)}" for name, value in pairs)


def _number(row: Row, key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

"""The comparison as a table for the terminal; it reads the same without colour."""

from __future__ import annotations

import sys

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlrp.evaluation.checks import Check
from rlrp.evaluation.comparison import Comparison
from rlrp.evaluation.metrics import VERDICT_WORDS, Verdict, difference, metric, number, verdict
from rlrp.evaluation.text import difference_label, policy_label, shown

_STYLES: dict[Verdict, str] = {"better": "green", "worse": "bold red", "unclear": "", "none": "dim", "neutral": "dim"}
_MARKS: dict[bool | None, tuple[str, str]] = {
    True: ("PASS", "green"),
    False: ("FAIL", "bold red"),
    None: ("NOT TESTED", "yellow"),
}


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print one table for each compared policy, the goals and the notes."""
    # A job's log has no width of its own; rich would take 80 columns, in which the verdicts break.
    (console or Console(width=None if sys.stdout.isatty() else 100)).print(render(comparison))


def render(comparison: Comparison) -> Group:
    """Tables, goals and notes; the contract's table fits in 100 columns."""
    parts: list[RenderableType] = []
    for target in comparison.targets:
        parts += [_table(comparison, target), Text(""), _goals([c for c in comparison.checks if c.policy == target])]
    parts.append(Text("Differences are means over units both policies have, with paired-bootstrap 95% intervals."))
    parts += [Text(f"Note: {shown(note)}") for note in comparison.notes]
    return Group(*parts)


def _table(comparison: Comparison, target: str) -> Table:
    policies = comparison.columns(target)
    # Text and not str throughout: rich would read "[red]" in a policy's name as a style.
    title = Text(f"{policy_label(target)} against {policy_label(comparison.reference)}")
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("metric", overflow="fold")
    for policy in policies:
        table.add_column(Text(policy_label(policy)), justify="right", overflow="fold", max_width=16)
    table.add_column(Text(f"{difference_label(target, comparison.reference)} [95%]"), overflow="fold", min_width=24)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for name, row in comparison.rows.items():
        interval = row.intervals[target]
        if all(row.values[policy] is None for policy in policies):
            continue
        outcome = verdict(interval, row.better, metric(name).descriptive)
        table.add_row(
            Text(shown(metric(name).label)),
            *(number(name, row.values[policy]) for policy in policies),
            Text(difference(name, interval)),
            str(interval.n or row.n),
            Text(VERDICT_WORDS[outcome], style=_STYLES[outcome]),
        )
    return table


def _goals(checks: list[Check]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    order: list[bool | None] = [False, None, True]
    for check in sorted(checks, key=lambda c: order.index(c.passed)):
        mark, style = _MARKS[check.passed]
        text = Text(f"{check.goal}: {shown(check.found)}", style=style if check.passed is False else "")
        if check.passed is False:
            text.append(f"\n(tested: {shown(check.rule)})")
        grid.add_row(Text(mark, style=style), text)
    return grid

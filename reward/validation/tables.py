"""The tables that ``rlrp reward validate`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reward.people.figures import HIGH, LOW, cell
from reward.people.report import print_report
from reward.validate import print_figures


def print_validation(report: Mapping[str, Any]) -> None:
    """Every section of the report, in the order in which it was measured."""
    console = Console()
    if held_out := report.get("held_out"):
        print_figures({**held_out["terms"], "total": held_out["total"]}, held_out["length_auc"])
    if ratings := report.get("ratings"):
        print_report(ratings)
    for language, own in report.get("curve", {}).items():
        _curve(console, language, own)
    for language, own in report.get("transfer", {}).items():
        _transfer(console, language, own)
    _dissonance(console, report["dissonance"])
    for title, own in report.get("contradiction", {}).items():
        _contradiction(console, title, own)
    if best_of := report.get("best_of"):
        _best_of(console, best_of)
    speed = report["speed"]
    columns = ("term", "one process", f"{speed['processes']} processes")
    rows = (
        (name, f"{n:,}", f"{speed['on_all_cores'][name]:,}" if name in speed["on_all_cores"] else "-")
        for name, n in speed["per_second"].items()
    )
    console.print(_table("replies a second", columns, rows))
    for section, reason in report["left_out"].items():
        console.print(f"not measured: {section} ({reason})", highlight=False)


def _curve(console: Console, language: str, found: Mapping[str, Any]) -> None:
    dimensions = sorted(next(iter(found.values())))
    rows = ((name, *(cell(own[d]) for d in dimensions)) for name, own in found.items())
    console.print(_table(f"{language}: AUC by what reads the reply", ("reader", *dimensions), rows))


def _transfer(console: Console, language: str, found: Mapping[str, Any]) -> None:
    dimensions = sorted(next(iter(found.values()))["auc"])
    title = f"{language}: AUC, rated {LOW:g} against {HIGH:g} and more, none of the ratings learnt"
    rows = ((name, *(cell(own["auc"][d]) for d in dimensions)) for name, own in found.items())
    console.print(_table(title, ("score", *dimensions), rows))


def _dissonance(console: Console, found: Mapping[str, Any]) -> None:
    names = list(next(iter(found["pairs"].values())))
    columns = ("score", *found["pairs"])
    rows = ((name, *(cell(own[name]) for own in found["pairs"].values())) for name in names)
    console.print(_table("dissonance: matched pairs told apart, by hand", columns, rows))
    rows = ((kind, cell(own), f"{own['mean_penalty']:.3f}") for kind, own in found["formal"].items())
    console.print(_table("dissonance: in role and formal, flagged", ("kind", "share", "mean penalty"), rows))
    for language, own in found["human_lines"].items():
        moved = found["names"][language]
        console.print(
            f"{language}: of {own['n']} lines that people wrote ({own['source']}) {own['flagged']:.1%} flagged, "
            f"{own['penalised']:.1%} penalised at all, {own['abstained']:.1%} without speech; "
            f"{moved['names']} other names move the value by {moved['mean_change']:.4f}",
            highlight=False,
        )
    own = found["zhang_fei"]
    console.print(
        f"Zhang Fei's biography: d {own['dissonant_d']:.2f}; in role at most {max(own['in_role_d']):.2f}; "
        f"95 % of people's lines below {own['limit']:.2f}: {'passed' if own['passed'] else 'FAILED'}\n",
        highlight=False,
    )


def _contradiction(console: Console, title: str, found: Mapping[str, Any]) -> None:
    rows = [("length alone", cell(found["length"]), "-")]
    rows += [(name, cell(own), "-") for name, own in found["reward"].items()]
    rows += [(f"learnt: {name}", cell(own), f"{own['accuracy']:.2f}") for name, own in found["learnt"].items()]
    heading = f"{title} (n {found['n']}; the majority is right in {found['majority']:.0%})"
    console.print(_table(heading, ("score", "AUC (95 %)", "accuracy"), rows))


def _best_of(console: Console, found: Mapping[str, Any]) -> None:
    largest = found["n"][-1]
    rows = []
    for name, own in found["by"].items():
        judge = own.get("judge_gain")
        told = f"{judge['value']:+.3f} ({judge['ci95'][0]:+.3f} to {judge['ci95'][1]:+.3f})" if judge else "-"
        change = [f"{own[key][0]:.2f} to {own[key][-1]:.2f}" for key in ("length", "self_mentions")]
        rows.append((name, told, *change))
    title = f"best of {largest} by each score, {found['prompts']} prompts"
    console.print(_table(title, ("selected by", "judge", "length", "says I"), rows))


def _table(title: str, columns: Any, rows: Any) -> Table:
    table = Table(title=Text(title, style="table.title"), box=None)
    for at, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if at == 0 else "right")
    for row in rows:
        table.add_row(*(Text(str(part)) for part in row))
    return table

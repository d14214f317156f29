"""What was measured of a reward learnt from ratings, for a screen and for the model's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table as ScreenTable
from rich.text import Text

from reward.people.figures import HIGH, LOW, cell


def print_report(report: Mapping[str, Any]) -> None:
    """Tables of what validation.json holds."""
    console = Console()
    for language, figures in report["languages"].items():
        found = figures["agreement"]
        for dimension in sorted(found["people"]["auc"]):
            title = Text(f"{language}, {dimension}: rated {LOW:g} against {HIGH:g} and more", style="table.title")
            screen = ScreenTable("score", "AUC (95 %)", "same generator", "length out", title=title, box=None)
            for name, own in found.items():
                if own["auc"]:
                    screen.add_row(name, *_cells(own["auc"].get(dimension)))
            console.print(screen)
        shown = [name for name in _SPEARMAN if name in found]
        heading = f"{language}: Spearman with people (and half of the 95 % interval)"
        screen = ScreenTable("dimension", *shown, title=heading, box=None)
        for dimension in sorted(found["people"]["spearman"]):
            screen.add_row(Text(dimension), *(_short(found[name]["spearman"].get(dimension)) for name in shown))
        console.print(screen)
        own = figures["calibration"]
        console.print(f"{language}: calibration error {own['ece']:.3f} (n {own['n']})\n", highlight=False)


_SPEARMAN = ("people", "own term", "length", "published")


def _short(figure: Mapping[str, Any] | None) -> str:
    """``0.44 ±0.18``."""
    if not figure or figure["value"] is None:
        return "-"
    low, high = figure["ci95"]
    return f"{figure['value']:.2f}" + ("" if low is None else f" ±{(high - low) / 2:.2f}")


def _cells(figure: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if figure is None:
        return "-", "-", "-"
    within, length_out = (
        "-" if (v := figure[key]) is None else f"{v:.2f}" for key in ("within_generator", "without_length")
    )
    return cell(figure), within, length_out


def figures_text(report: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = []
    for language, figures in report["languages"].items():
        found = figures["agreement"]
        dimensions = sorted(found["people"]["auc"])
        lines += [
            f"### {language}",
            "",
            "| AUC | " + " | ".join(dimensions) + " |",
            "|---" * (len(dimensions) + 1) + "|",
        ]
        for name, own in found.items():
            if own["auc"]:
                lines.append(f"| {name} | " + " | ".join(cell(own["auc"].get(d)) for d in dimensions) + " |")
        shown = [name for name in _SPEARMAN if name in found]
        lines += ["", "| Spearman | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
        for dimension in sorted(found["people"]["spearman"]):
            cells = [cell(found[name]["spearman"].get(dimension)) for name in shown]
            lines.append(f"| {dimension} | " + " | ".join(cells) + " |")
        own = figures["calibration"]
        lines += ["", f"Calibration error {own['ece']:.3f} (n {own['n']}).", ""]
    return "\n".join(lines)


def data_text(data: Mapping[str, Any]) -> str:
    return (
        f"{data['ratings']} ratings of {data['items']} replies of {data['characters']} characters, "
        f"written by {', '.join(data['generators']) or 'unknown models'}."
    )


CARD = """\
# A reward learnt from people's ratings

`people/` predicts how probable it is that people rate a reply above the middle: a ridge regression on style, on
wording (character n-grams) and, where a reader is set, on a language model's hidden states. Linear models in
safetensors and JSON; nothing in them is code. `reward.yaml` makes a reward of it; the terms `people.DIMENSION` are
logged and have no weight.

Whoever passes the model on passes on what it learnt from: mind the licence of the ratings.

## Data

{data}

## Measured

Ten-fold cross-validation by character; `people, unseen generators` leaves whole generators out instead. AUC tells
replies rated 2 (an assistant's or an encyclopaedia's manner) from those rated 4 and 5; in brackets 95 % intervals over
characters. `length` is the shorter reply first; `published` the benchmark's own judge without a reference.

{figures}
![ROC](roc.png)
![Calibration](calibration.png)
![Agreement](agreement.png)
"""

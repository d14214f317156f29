"""``rlrp reward explain``: why a reply got its score, so that a person can follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reward.composite import CompositeReward
from reward.config import load_reward
from reward.sample_files import read_sample_lines
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.printable import printable
from rlrp.protocols import Judgement

_STYLES = ("black on yellow", "white on red", "white on blue", "black on cyan", "white on magenta", "black on green")


@dataclass(frozen=True)
class Share:
    """One term's part in a total.

    Args:
        value: what the term said; None if it abstained, and then ``used`` is the value that stood in for it.
        contribution: weight times ``used``, in units of the total.
        share: of the contributions' sizes, in [0, 1].
        vetoed: the term's gate held the total down.
    """

    name: str
    value: float | None
    used: float
    weight: float
    contribution: float
    share: float
    vetoed: bool
    reasons: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


def shares(composite: CompositeReward, judgement: Judgement) -> list[Share]:
    """Every term's part in the judgement of a sample without a group, the largest first, unweighted terms last."""
    found = []
    for term, weight, settings in composite.terms:
        value = judgement.terms[term.name]
        stands = settings.neutral if value is None else value
        used = 0.0 if settings.normalise == "group" else stands  # a group of one has no deviation
        gate = settings.gate
        vetoed = gate is not None and value is not None and value < gate.below
        found.append((term.name, value, used, weight, weight * used, vetoed))
    total = sum(abs(item[4]) for item in found)
    parts = [
        Share(
            name,
            value,
            used,
            weight,
            amount,
            abs(amount) / total if total else 0.0,
            vetoed,
            judgement.reasons.get(name, ()),
            judgement.spans.get(name, ()),
        )
        for name, value, used, weight, amount, vetoed in found
    ]
    return sorted(parts, key=lambda part: (part.weight == 0, -part.share))


def explain_file(reward_yaml: str | Path, in_path: str | Path, *, identifier: str | None = None, limit: int = 3) -> int:
    """Explain the samples of a file on the screen: the one called ``identifier``, or the first ``limit``.

    Raises:
        UserError: no such sample; what :func:`~reward.config.load_reward` and the reader refuse.
    """
    if limit < 1:
        raise UserError(f"got {limit}, expected at least 1", place="--limit")
    composite, shown = load_reward(reward_yaml), 0
    for line in read_sample_lines(in_path):
        if identifier is not None and str(line.identifier) != identifier:
            continue
        print_explanation(composite, line.sample, str(line.identifier))
        shown += 1
        if shown == limit or identifier is not None:
            break
    if not shown:
        wanted = "no sample in it" if identifier is None else f"no sample has the id {identifier!r}"
        raise UserError(wanted, file=in_path)
    return shown


def print_explanation(
    composite: CompositeReward, sample: Sample, title: str = "", *, console: Console | None = None
) -> None:
    """The reply with what was found marked by term, and a table of terms, weights and shares."""
    console = console or Console()
    judgement = composite.score_one_by_one([sample])[0]
    parts = shares(composite, judgement)
    marked = [part for part in parts if part.spans]
    styles = {part.name: _STYLES[at % len(_STYLES)] for at, part in enumerate(marked)}
    asked = next((m.content for m in reversed(sample.messages) if m.role == "user"), "")
    console.print(Text(printable(f"{title}  {sample.card.display_name}".strip()), style="bold"))
    if asked:
        console.print(Text(printable(f"> {asked}"), style="dim"))
    if console.is_terminal:
        console.print(marked_reply(sample.reply, [(part.spans, styles[part.name]) for part in marked]))
    else:
        console.print(Text(bracketed_reply(sample.reply, [(part.spans, part.name) for part in marked])))
    console.print(_table(parts, styles))
    console.print(Text(_sum(parts, judgement.total)), "\n")


def marked_reply(reply: str, marks: Sequence[tuple[Sequence[tuple[int, int]], str]]) -> Text:
    """The reply as text, never as markup, with spans in the given styles; the first given wins where two overlap."""
    text = Text(printable(reply) or "(empty)", style="" if reply else "dim")
    for spans, style in reversed(marks):
        for start, end in spans:
            text.stylize(style, start, end)
    return text


def bracketed_reply(reply: str, marks: Sequence[tuple[Sequence[tuple[int, int]], str]]) -> str:
    """The reply for a screen without colours: ``⟦what was found⟧(term)``."""
    text = printable(reply) or "(empty)"
    ends = [(end, 0, f"⟧({name})") for spans, name in marks for _, end in spans]
    starts = [(start, 1, "⟦") for spans, _ in marks for start, _ in spans]
    for at, _, mark in sorted(ends + starts, reverse=True):
        text = text[:at] + mark + text[at:]
    return text


def _table(parts: Sequence[Share], styles: dict[str, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, justify in (("term", "left"), ("value", "right"), ("weight", "right"), ("adds", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for part in parts:
        value = "abstains" if part.value is None else f"{part.value:+.3f}"
        why = [reason.removeprefix(f"{part.name}: ") for reason in part.reasons]
        if part.value is None:
            why.append(f"counts as {part.used:+.3f}")
        if part.vetoed:
            why.append("vetoes: the total is held down")
        logged = "logged" if part.weight == 0 else f"{part.share:.0%}"
        table.add_row(
            Text(part.name, style=styles.get(part.name, "")),
            value,
            f"{part.weight:g}",
            f"{part.contribution:+.3f}",
            logged,
            Text(printable("\n".join(why))),
        )
    return table


def _sum(parts: Sequence[Share], total: float) -> str:
    plain = sum(part.contribution for part in parts)
    held = f" (held down from {plain:+.3f})" if total < plain - 1e-9 else ""
    return f"total {total:+.3f}{held}"

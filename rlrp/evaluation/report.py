"""The report: one HTML file that needs nothing else, with verdicts, intervals, curves and replies side by side."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlrp.evaluation.charts import forest
from rlrp.evaluation.comparison import Comparison
from rlrp.evaluation.curves import panels
from rlrp.evaluation.metrics import VERDICT_WORDS, Verdict, difference, metric, number, verdict
from rlrp.evaluation.pairing import side_by_side
from rlrp.evaluation.results import Reply
from rlrp.evaluation.text import difference_label, language, policy_label, shown
from rlrp.files import write_text

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Line:
    """One metric in the table of results."""

    label: str
    note: str
    values: tuple[str, ...]
    difference: str
    n: str
    chart: Markup
    outcome: Verdict
    words: str


@dataclass(frozen=True)
class _Block:
    """One compared policy: its headline, goals and table."""

    target: str
    headline: str
    tally: str
    failed: int
    columns: tuple[str, ...]
    difference: str
    lines: tuple[_Line, ...]


def write_report(
    path: str | Path,
    comparison: Comparison,
    curves: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Sequence[Reply | Mapping[str, Any]]],
    *,
    title: str,
    limit: int = 40,
) -> None:
    """Write the HTML report.

    Args:
        curves: the rows of ``metrics.jsonl``, flat, with ``step``; empty leaves the section out.
        samples: replies by policy, under the names in ``comparison.policies``.
        title: of the page.
        limit: prompts shown side by side; the page says how many there are.
    """
    write_text(path, render_report(comparison, curves, samples, title=title, limit=limit))


def render_report(
    comparison: Comparison,
    curves: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Sequence[Reply | Mapping[str, Any]]],
    *,
    title: str,
    limit: int = 40,
) -> str:
    """The page's HTML; see ``write_report``."""
    sides, available = side_by_side(samples, comparison.policies, comparison.reference, limit=limit)
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    flat = _flatten(comparison.settings)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _environment().get_template("report.html.jinja").render(
        title=title,
        comparison=comparison,
        failed=[check for check in comparison.checks if check.passed is False],
        blocks=[_block(comparison, target) for target in comparison.targets],
        facts=_facts(comparison, samples, flat),
        panels=panels(curves, kl_target=comparison.settings["comparison"]["kl_target"]),
        sides=sides,
        available=available,
        cards=sorted({side.card for side in sides}),
        suites=sorted({side.suite for side in sides if side.suite}),
        stages=_stages(comparison.seconds),
        settings=flat,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
    )  # fmt: skip


def headline(comparison: Comparison, target: str) -> str:
    """One sentence: what happened to the composite reward."""
    names = policy_label(target), policy_label(comparison.reference)
    row = comparison.rows.get("composite")
    if row is None or row.intervals[target].delta is None:
        return f"{names[0]} against {names[1]}: the composite reward was not measured for both"
    interval = row.intervals[target]
    outcome = verdict(interval, row.better)
    if outcome == "none":
        return f"{names[0]} against {names[1]}: too few cards for an interval on the composite reward"
    if outcome == "unclear":
        return f"No clear change in the composite reward from {names[1]} to {names[0]}"
    word = "raises" if outcome == "better" else "lowers"
    return (
        f"{names[0]} {word} the composite reward by {number('composite', abs(interval.delta or 0.0))} over {names[1]}"
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Runs before escaping, on everything the template prints.
        finalize=lambda value: shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters["label"] = policy_label
    environment.filters["minus"] = _minus
    environment.filters["lang"] = lambda text: language(text) or "en"
    environment.filters["duration"] = _duration
    environment.filters["metric_label"] = lambda name: metric(name).label
    return environment


def _block(comparison: Comparison, target: str) -> _Block:
    checks = [check for check in comparison.checks if check.policy == target]
    met = sum(check.passed is True for check in checks)
    failed = sum(check.passed is False for check in checks)
    tally = f"{met} of {len(checks)} goals met, {failed} failed, {len(checks) - met - failed} not tested"
    columns = tuple(comparison.columns(target))
    lines = []
    for name, row in comparison.rows.items():
        if all(row.values[policy] is None for policy in columns):
            continue
        interval, described = row.intervals[target], metric(name)
        outcome = verdict(interval, row.better, described.descriptive)
        title = f"{described.label}: {policy_label(target)} minus {policy_label(comparison.reference)}"
        lines.append(
            _Line(
                described.label,
                described.note,
                tuple(_minus(number(name, row.values[policy])) for policy in columns),
                _minus(difference(name, interval)),
                f"{interval.n or row.n} {described.unit}",
                # "better" heads the right side of the drawing: nothing to draw where neither side is.
                Markup("") if outcome == "neutral" else forest(interval, row.better, outcome, title=title),
                outcome,
                VERDICT_WORDS[outcome],
            )
        )
    heading = difference_label(target, comparison.reference).replace(" - ", " − ")
    return _Block(target, headline(comparison, target), tally, failed, columns, heading, tuple(lines))


def _facts(
    comparison: Comparison, samples: Mapping[str, Sequence[Any]], settings: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The figures under the headline: what the numbers rest on."""
    cards = sorted(set(comparison.settings["n_cards"].values()))
    replies = sorted({len(samples[policy]) for policy in comparison.policies if policy in samples})
    facts = [("cards", _span(cards)), ("replies per policy", _span(replies) if replies else "–")]
    # The bootstrap's own seed is among the settings; here it would pass for a seed of the run.
    seeded = [(key.split("."), value) for key, value in settings]
    seeds = sorted({value for key, value in seeded if key[-1] in ("seed", "seeds") and key[0] != "comparison"})
    if seeds:
        facts.append(("seeds" if len(seeds) > 1 else "seed", ", ".join(seeds)))
    facts.append(("bootstrap resamples", f"{comparison.settings['comparison']['resamples']:,}"))
    if comparison.seconds:
        facts.append(("wall time", _duration(sum(comparison.seconds.values()))))
    if comparison.peak_memory_gb is not None:
        facts.append(("peak memory", f"{comparison.peak_memory_gb:.1f} GB"))
    return facts


def _span(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _stages(seconds: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Stage, seconds and its share of the longest, 0 to 100."""
    longest = max(seconds.values(), default=0.0) or 1.0
    return [(stage, value, round(100 * value / longest, 1)) for stage, value in seconds.items()]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and their values as text, in the order of the file."""
    flat: list[tuple[str, str]] = []
    for key, value in settings.items():
        place = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{place}.")
        else:
            flat.append(
                (place, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
            )
    return flat


def _minus(text: str) -> str:
    """Typographic minus and dash for the page; the terminal keeps ASCII."""
    return "–" if text == "-" else text.replace("-", "−")

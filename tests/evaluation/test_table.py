from __future__ import annotations

import io

from rich.console import Console

from rlrp.evaluation.comparison import compare, compare_policies
from rlrp.evaluation.metrics import METRICS
from rlrp.evaluation.table import print_comparison

from .made import evaluation


def _printed(comparison, *, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=colour, color_system="standard" if colour else None)
    print_comparison(comparison, console)
    return stream.getvalue()


def _everything(shift: float):
    cards = [f"card-{i}" for i in range(12)]
    values = {name: {card: -12.345 + i for i, card in enumerate(cards)} for name in METRICS}
    values["general_perplexity"] = {card: 2.7 + i / 100 for i, card in enumerate(cards)}
    moved = {name: {u: v + shift for u, v in units.items()} for name, units in values.items()}
    return compare(evaluation("b", values), evaluation("s", values), evaluation("r", moved), kl_target=0.1)


def test_every_metric_stays_on_one_line_of_100_columns():
    lines = _printed(_everything(-1.5)).splitlines()
    assert max(map(len, lines)) <= 100
    for metric in METRICS.values():
        line = next(line for line in lines if line.strip().startswith(metric.label))
        assert any(line.rstrip().endswith(word) for word in ("better", "worse", "not judged", "no clear change"))


def test_failing_goals_come_first_in_words_and_in_red():
    plain = _printed(_everything(-1.5))
    goals = [line for line in plain.splitlines() if line.startswith(("FAIL", "PASS", "NOT TESTED"))]
    assert goals[0].startswith("FAIL") and goals[-1].startswith("PASS")
    assert goals == sorted(goals, key=lambda line: ("FAIL", "NOT ", "PASS").index(line[:4]))
    assert "(tested: the 95% interval of RL minus SFT lies wholly above 0)" in plain
    assert "\x1b[1;31mFAIL" in _printed(_everything(-1.5), colour=True)
    assert "\x1b" not in plain


def test_metrics_that_nobody_has_are_left_out():
    comparison = compare(None, evaluation("s", {"judge": {"a": 1.0}}), evaluation("r", {"judge": {"a": 2.0}}))
    printed = _printed(comparison)
    assert "Judge" in printed and "Composite reward  " not in printed and "no interval" in printed


def test_names_from_files_are_neither_markup_nor_control_characters():
    names = ("[red]one[/red]", "two\x1b[31m\u202e")
    printed = _printed(compare_policies([evaluation(name, {"judge": {"a": 1.0, "b": 2.0}}) for name in names]))
    assert "[red]one[/red]" in printed
    assert "\x1b" not in printed and "\u202e" not in printed and "⟨U+202E⟩" in printed

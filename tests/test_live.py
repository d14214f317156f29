"""What a run shows as it goes, on a terminal and in a job's log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rlrp.live import StepView, duration, line, render, spark, step_seconds, term_names

ROW = {
    "step": 3,
    "kl": 0.0421,
    "kl_coef": 0.1,
    "reply_tokens": 41.6,
    "reward/total": -0.25,
    "reward/total_std": 0.4,
    "reward/in_character": 0.318,
    "reward/judge": 0.36,
    "judge": 0.36,
    "reward/blacklist": 0.0,
    "seconds/sample": 4.0,
    "seconds/learn": 2.5,
}
CLUSTER = {
    "restarts/rollout": 2,
    "restarts/learner": 0,
    "queue/ready": 4,
    "queue/sampling": 2,
    "tokens_per_second/rollout": 1234.5,
    "tokens_per_second/learner": 9876.0,
    "dropped": 1,
    "quarantined": 0,
}


def test_a_line_of_a_small_run() -> None:
    assert line(ROW, 12) == "step   3/12  reward -0.250  in_character 0.318  judge 0.360  kl 0.0421  tokens 42  6.5 s"


def test_a_line_of_a_cluster_run() -> None:
    said = line({**ROW, **CLUSTER}, 300)
    assert said.endswith("rollout 1234 tok/s  learner 9876 tok/s  queue 4/2  rollout restarted 2x  dropped 1  6.5 s")


def test_what_is_not_there_is_not_said() -> None:
    assert line({"step": 1, "kl": None}, 2) == "step   1/2  0.0 s"
    assert step_seconds({"seconds/wait": 1.0, "seconds/step": 9.0}) == 9.0  # phases that overlap have a total


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with StepView("demo", 12, Console(file=io.StringIO())) as view:
        view(ROW)
        view({**ROW, "step": 4})
    said = capsys.readouterr().out
    assert said.count("\n") == 2 and "\x1b" not in said and "step   4/12" in said


def test_a_terminal_gets_one_table_that_stays_in_place() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    with StepView("demo", 12, console) as view:
        view(ROW)
        view({**ROW, "step": 4, "reward/total": 0.5})
    assert "\x1b[" in out.getvalue()  # the cursor goes back up
    last = out.getvalue().rsplit("step 3/12", 1)[-1]
    assert "step 4/12, about 52 s left" in last  # eight steps of 6.5 s
    assert "+0.500" in last and "+0.125" in last  # now, and the mean with -0.25


def test_the_table_fits_and_names_what_the_cluster_does() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(render("demo [red]", 300, [{**ROW, **CLUSTER, "reward/my [term]": 1.0}]))
    said = console.export_text()
    assert "demo [red]" in said and "my [term]" in said
    for part in ("KL        0.0421 (coefficient 0.1)", "tokens/s  rollout 1234  learner 9876", "restarts  rollout 2"):
        assert part in said
    assert "queue     ready 4  sampling 2" in said and "lost      dropped 1" in said
    assert max(map(len, said.splitlines())) <= 80


def test_terms_come_after_the_total() -> None:
    assert term_names(ROW) == ["total", "blacklist", "in_character", "judge"]


def test_durations_and_curves() -> None:
    assert [duration(s) for s in (0.4, 95, 3600, 86_400 + 59)] == ["0 s", "1 min 35 s", "1 h 0 min", "24 h 0 min"]
    assert spark([0, 1, 2, 7]) == "▁▂▃█" and spark([3, 3]) == "▁▁"

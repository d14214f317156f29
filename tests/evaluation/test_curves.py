from __future__ import annotations

import math

from rlrp.evaluation.charts import Point
from rlrp.evaluation.curves import panels, running_mean, series, thin


def test_a_series_has_its_band_and_leaves_gaps_out():
    rows = [
        {"step": 2, "kl": 0.2, "kl_std": 0.1},
        {"step": 1, "kl": 0.1},
        {"step": 3, "kl": None},
        {"step": 4, "kl": math.nan},
        {"step": 5, "kl": "0.5"},
        {"step": 6, "kl": True},
        {"step": 7, "kl": 10**400},
        {"kl": 0.9},
    ]
    assert series(rows, "kl") == [Point(1, 0.1, None), Point(2, 0.2, 0.1)]


def test_after_a_restart_the_later_row_of_a_step_holds():
    assert series([{"step": 1, "kl": 0.1}, {"step": 1, "kl": 0.3}], "kl") == [Point(1, 0.3)]


def test_thinning_averages_neighbours():
    points = [Point(i, float(i), 1.0 if i % 2 else None) for i in range(6)]
    assert thin(points, 6) == points
    assert thin(points, 3) == [Point(0.5, 0.5, 1.0), Point(2.5, 2.5, 1.0), Point(4.5, 4.5, 1.0)]
    assert len(thin(points, 4)) == 3


def test_a_running_mean_is_narrower_at_the_ends():
    points = [Point(i, v) for i, v in enumerate((0.0, 3.0, 6.0, 0.0))]
    assert [p.value for p in running_mean(points, 3)] == [1.5, 3.0, 3.0, 3.0]


def test_panels_are_the_total_the_terms_and_what_is_watched():
    row = {
        "step": 1, "reward/total": 0.1, "reward/total_std": 0.2, "reward/zest": 0.3, "reward/judge": 0.1,
        "reward/blacklist": 0, "reward/in_character": 0.5, "reward/in_character/abstained": 1, "kl": 0.01,
        "entropy": 2.0, "loss": 3.0, "judge": 0.1,
    }  # fmt: skip
    made = panels([row, {**row, "step": 2}], kl_target=0.1)
    assert [panel.key for panel in made] == [
        "reward/total", "reward/in_character", "reward/blacklist", "reward/judge", "reward/zest", "kl", "entropy",
    ]  # fmt: skip
    assert [panel.heading for panel in made][4] == "Zest"
    assert "target" in next(panel.chart for panel in made if panel.key == "kl")
    assert not any(panel.smoothed for panel in made)


def test_long_runs_get_a_running_mean_and_few_points():
    (panel,) = panels([{"step": i, "kl": i % 7 / 10} for i in range(5000)])
    assert panel.smoothed and len(panel.chart) < 30_000


def test_no_rows_no_panels():
    assert panels([]) == [] and panels([{"step": 1}]) == []

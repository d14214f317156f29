"""The Ray metrics: what a row becomes, and that the dashboard draws exactly what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rlrp.runtime.gauges import METRICS, samples

ROOT = Path(__file__).parents[2]


def test_a_row_as_metrics() -> None:
    row = {
        "step": 3,
        "kl": 0.04,
        "reward/total": 0.5,
        "reward/total_std": 0.1,
        "tokens_per_second/rollout": 900.0,
        "queue/ready": 2,
        "length_correlation/total": 0.3,
    }
    assert samples(row) == [
        ("rlrp_step", {}, 3),
        ("rlrp_reward", {"term": "total"}, 0.5),
        ("rlrp_kl", {}, 0.04),
        ("rlrp_tokens_per_second", {"pool": "rollout"}, 900.0),
        ("rlrp_queue", {"state": "ready"}, 2),
    ]


def test_prometheus_takes_the_names() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"rlrp_[a-z_]+", name) for name in names)


def test_the_dashboard_draws_every_metric_and_no_other() -> None:
    board = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    drawn = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert drawn == [f'ray_{metric.name}{{run=~"$run"}}' for metric in METRICS]
    legends = [panel["targets"][0]["legendFormat"] for panel in board["panels"]]
    assert legends == ["{{run}}" + (f" {{{{{metric.tag}}}}}" if metric.tag else "") for metric in METRICS]


def test_the_document_lists_every_metric() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert [m.name for m in METRICS if f"`ray_{m.name}`" not in text] == []

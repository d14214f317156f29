"""The benchmarks' ratios as bars, with every repetition as a dot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of ours against the peer, longer is better, the goal beside each; replaces ``path``."""
    figure, axes = plt.subplots(figsize=(8.5, 0.5 * len(rows) + 1.4), layout="constrained")
    for y, row in enumerate(rows):
        axes.barh(y, row["ratio"], height=0.55, color="#4878a8" if row["ratio"] >= 1 else "#b0653a")
        ours, peer = row["runs"]["ours"], row["runs"]["peer"]
        each = [_ratio(a, b, row["unit"]) for a, b in zip(ours, peer, strict=True)]
        axes.plot(each, [y] * len(each), "o", color="black", markersize=3.5)
        axes.text(max(*each, row["ratio"]) * 1.06, y, f"{row['ratio']:.2f}   goal: {row['goal']}", va="center", size=8)
    axes.axvline(1, color="grey", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.set_xlim(0.3, 60)
    axes.set_xlabel("times better than the peer (median; dots: the repetitions, ours and the peer's in turn)")
    axes.set_title(f"{rows[0]['setting']['model']}; {rows[0]['machine']}", size=9)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=130)
    plt.close(figure)
    temporary.replace(path)


def _ratio(ours: dict[str, float], peer: dict[str, float], unit: str) -> float:
    if unit == "tokens/s":
        return (ours["tokens"] / ours["seconds"]) / (peer["tokens"] / peer["seconds"])
    name = "seconds" if unit == "s" else "peak_memory_gb"
    return peer[name] / ours[name]

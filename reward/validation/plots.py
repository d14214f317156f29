"""The plot of best-of-n: the judge, length and self-mentions against n, a line a selecting score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlrp.files import atomic_path

_PANELS = {"judge": "never-optimised judge", "length": "length (units)", "self_mentions": "share with a self-mention"}


def draw_best_of(path: Path, found: Mapping[str, Any]) -> None:
    """A panel for each of what the choice changes."""
    from matplotlib.figure import Figure  # without pyplot there is no window system to look for

    panels = {key: title for key, title in _PANELS.items() if any(key in own for own in found["by"].values())}
    figure = Figure(figsize=(4.6 * len(panels), 4.0), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for name, own in found["by"].items():
            style = {"color": "#222222", "linewidth": 2.2} if name == "total" else {"linewidth": 1.2}
            axis.plot(found["n"], own[key], "o-", markersize=3, label=name, **style)
        axis.set_xscale("log", base=2)
        axis.set(title=title, xlabel=f"best of n, by the score ({found['prompts']} prompts)", xticks=found["n"])
        axis.set_xticklabels([str(n) for n in found["n"]])
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)

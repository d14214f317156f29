"""Plots of a reward that was measured: ROC, calibration, agreement with people by dimension, best of n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlrp.files import atomic_path

_CHANGES = {"judge": "never-optimised judge", "length": "length (units)", "self_mentions": "share with a self-mention"}
_COLOURS = {
    "people": "#1f6f8b",
    "total": "#222222",
    "in_character": "#1f6f8b",
    "judge": "#3c9d6b",
    "length": "#b0b0b0",
    "length alone": "#b0b0b0",
    "published": "#d08c2e",
    "dissonance": "#7a4f9a",
}


def draw_roc(path: Path, curves: Mapping[str, Mapping[str, tuple[ArrayLike, ...]]]) -> None:
    """One panel for each entry of ``curves``; in it, by name of the score, (good or not, score) or with weights."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = _panels(len(curves))
    for axis, (title, own) in zip(axes, curves.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="#dddddd", linewidth=1)
        for name, (labels, scores, *weights) in own.items():
            y, s = np.asarray(labels), np.asarray(scores, float)
            w = np.asarray(weights[0] if weights else np.ones_like(s), float)
            known = np.isfinite(s)
            if len(set(y[known])) < 2:
                continue
            x, ys, _ = roc_curve(y[known], s[known], sample_weight=w[known])
            label = f"{name} {roc_auc_score(y[known], s[known], sample_weight=w[known]):.2f}"
            axis.plot(
                x, ys, color=_COLOURS.get(name), linewidth=1.8 if name in ("people", "total") else 1.2, label=label
            )
        axis.set(title=title, xlabel="false positives", ylabel="true positives", aspect="equal")
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, path)


def draw_calibration(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """One panel for each language: mean probability against the share that was good."""
    figure, axes = _panels(len(found))
    for axis, (title, own) in zip(axes, found.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="#dddddd", linewidth=1)
        points = np.array(own["points"], float)
        axis.plot(points[:, 0], points[:, 1], "o-", color=_COLOURS["people"])
        title = f"{title}: ECE {own['ece']:.3f}, n {own['n']}"
        axis.set(title=title, xlabel="predicted", ylabel="good", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _save(figure, path)


def draw_agreement(path: Path, found: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Sequence[str]) -> None:
    """Spearman with people by dimension, a panel a language; ``found[language][score][dimension]``."""
    figure, axes = _panels(len(found), width=5.2)
    for axis, (language, own) in zip(axes, found.items(), strict=True):
        dimensions = sorted(own[names[0]])
        place = np.arange(len(dimensions))
        for at, name in enumerate(names):
            cells = [own[name].get(dimension) or {} for dimension in dimensions]
            values = np.array([np.nan if c.get("value") is None else c["value"] for c in cells])
            ends = np.array([c.get("ci95") or [None, None] for c in cells], float)
            shift = (at - (len(names) - 1) / 2) * 0.2
            span = np.abs(np.stack([values - ends[:, 0], ends[:, 1] - values]))
            axis.errorbar(values, place + shift, xerr=span, fmt="o", ms=4, lw=1, color=_COLOURS.get(name), label=name)
        axis.axvline(0, color="#dddddd", linewidth=1)
        axis.set(title=f"{language}: Spearman with people", yticks=place, yticklabels=dimensions, xlim=(-0.6, 1))
        axis.invert_yaxis()
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=len(names))
    _save(figure, path)


def draw_best_of(path: Path, found: Mapping[str, Any]) -> None:
    """A panel for each of what the choice changes."""
    panels = {key: title for key, title in _CHANGES.items() if any(key in own for own in found["by"].values())}
    figure, axes = _panels(len(panels), width=4.6)
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for name, own in found["by"].items():
            style = {"color": "#222222", "linewidth": 2.2} if name == "total" else {"linewidth": 1.2}
            axis.plot(found["n"], own[key], "o-", markersize=3, label=name, **style)
        axis.set_xscale("log", base=2)
        axis.set(title=title, xlabel=f"best of n, by the score ({found['prompts']} prompts)", xticks=found["n"])
        axis.set_xticklabels([str(n) for n in found["n"]])
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def _panels(count: int, width: float = 4.0) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # without pyplot there is no window system to look for

    figure = Figure(figsize=(width * count, 4.2), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    return figure, list(axes)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=130)

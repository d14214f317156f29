"""Figures that belong to a head alone: of each fault, and of the adversarial set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reward.heads.faults import FAULT_OF_KIND, FAULTS, PREFIX
from reward.measures import auc, brier, calibration_error
from reward.negatives import Example
from rlrp.dialogue import Sample
from rlrp.protocols import TermScore

Scorer = Callable[[Sequence[Sample]], Sequence[TermScore]]
_DIGITS = 4


def fault_figures(score: Scorer, examples: Sequence[Example]) -> dict[str, dict[str, float | int | None]]:
    """For each fault that the head knows: ``auc`` against replies in role, ``auc_other_faults`` against replies with
    another fault, ``brier`` and ``ece`` at even odds (kinds weighted as in training), and ``n``, the examples of it.
    A figure without data is None."""
    scored = list(zip(examples, score([example.sample for example in examples]), strict=True))
    return {name: found for name in FAULTS if (found := _figures_of(name, scored)) is not None}


def _figures_of(name: str, scored: Sequence[tuple[Example, TermScore]]) -> dict[str, float | int | None] | None:
    key = f"{PREFIX}{name}"
    given = [(example, score.parts[key]) for example, score in scored if key in score.parts]
    if not given:
        return None
    values = np.array([value for _, value in given])
    own = np.array([FAULT_OF_KIND.get(example.kind) == name for example, _ in given])
    in_role = np.array([example.label == 1 for example, _ in given])
    others = np.array([FAULT_OF_KIND.get(example.kind) not in (None, name) for example, _ in given])
    told = own | in_role
    labels = own[told].astype(np.int64)
    weights = np.array([example.weight for example, _ in given])[told]
    even = weights / np.where(labels == 1, weights[labels == 1].sum(), weights[labels == 0].sum())
    both = bool(own.any() and in_role.any())
    return {
        "n": int(own.sum()),
        "auc": _rounded(auc(labels, values[told], weights)),
        "auc_other_faults": _rounded(auc(own[own | others].astype(np.int64), values[own | others])),
        "brier": _rounded(brier(labels, values[told], even)) if both else None,
        "ece": _rounded(calibration_error(labels, values[told], even)) if both else None,
    }


def _rounded(value: float) -> float | None:
    return round(float(value), _DIGITS) if np.isfinite(value) else None


def faults_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a fault a line; faults without a head are named below."""
    rows = ["| fault | examples | AUC | AUC against other faults | Brier | ECE |", "|---|---|---|---|---|---|"]
    for name, own in figures.items():
        cells = [_cell(own[key]) for key in ("auc", "auc_other_faults", "brier", "ece")]
        rows.append(f"| {name} | {own['n']} | " + " | ".join(cells) + " |")
    absent = [name for name in FAULTS if name not in figures]
    if absent:
        rows += ["", f"No probability of: {', '.join(absent)}: the training data had too few examples."]
    return "\n".join(rows)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""Figures that belong to a head alone: of each fault, and of the adversarial set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reward.heads.faults import FAULT_OF_KIND, FAULTS, PREFIX
from reward.measures import auc, brier, calibration_error, pair_accuracy, rounded
from reward.negatives import Example
from rlrp.cards import CharacterCard, read_cards
from rlrp.dialogue import Contrast, Message, Sample, read_contrasts, resolve
from rlrp.protocols import TermScore

Scorer = Callable[[Sequence[Sample]], Sequence[TermScore]]


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
        "auc": rounded(auc(labels, values[told], weights)),
        "auc_other_faults": rounded(auc(own[own | others].astype(np.int64), values[own | others])),
        "brier": rounded(brier(labels, values[told], even)) if both else None,
        "ece": rounded(calibration_error(labels, values[told], even)) if both else None,
    }


def adversarial_pairs(cards: Mapping[str, CharacterCard]) -> list[Contrast]:
    """The shipped pairs of a reply in role and a fault dressed up as one, of the shipped cards among ``cards``."""
    found: list[Contrast] = []
    for language in ("en", "zh"):
        shipped = read_cards(resolve(f"builtin:cards/{language}"))
        pairs = read_contrasts(resolve(f"builtin:evaluation/in_character_adversarial_{language}.jsonl"), shipped)
        found += [pair for pair in pairs if cards.get(pair.card_slug) == pair.card]
    return found


def adversarial_figures(score: Scorer, pairs: Sequence[Contrast]) -> dict[str, Any]:
    """``accuracy`` over the pairs that have scores (the reply in role is worth more), ``n``, and ``by_fault``."""
    asked = [(pair.card, (Message("user", pair.user),)) for pair in pairs]
    better = score([Sample(*place, pair.in_role) for place, pair in zip(asked, pairs, strict=True)])
    worse = score([Sample(*place, pair.faulty) for place, pair in zip(asked, pairs, strict=True)])
    values = [
        (pair.kind, high.value, low.value)
        for pair, high, low in zip(pairs, better, worse, strict=True)
        if high.value is not None and low.value is not None
    ]

    def accuracy(of: str | None = None) -> float | None:
        own = [(high, low) for kind, high, low in values if of in (None, kind)]
        return rounded(pair_accuracy([high for high, _ in own], [low for _, low in own]))

    kinds = sorted({kind for kind, _, _ in values})
    return {"accuracy": accuracy(), "n": len(values), "by_fault": {kind: accuracy(kind) for kind in kinds}}


def adversarial_text(figures: Mapping[str, Any]) -> str:
    """A line for the model card."""
    if not figures["n"]:
        return "None of the shipped adversarial pairs is about a character it was measured on."
    by_fault = ", ".join(f"{name} {_cell(value)}" for name, value in figures["by_fault"].items())
    return f"{_cell(figures['accuracy'])} of {figures['n']} pairs ({by_fault})."


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

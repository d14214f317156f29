"""Contradiction and role confusion: what a reward says of replies that people found inconsistent, and what could be
learnt from such labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.composite import CompositeReward
from reward.measures import auc, figure
from reward.people.figures import lengths
from reward.people.fit import Table, fit_aspect
from reward.people.ratings import Rating
from reward.text import Language
from reward.validation.public_data import CONTRADICTIONS, Labelled

Floats = NDArray[np.float64]
_EACH = 600
"""Replies of each label that are drawn, so that the majority is right in one half."""
_DIGITS = 4
DIMENSION = "consistency"


def measure_contradiction(
    composite: CompositeReward,
    data: Path,
    readers: Mapping[Language, str | None],
    *,
    accept_terms: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """For each set that the folder holds, the AUC of consistent against inconsistent replies, with its interval.

    ``reward`` holds the total, every term and the faults of the in-character classifier as they are; ``learnt`` a model
    like that of people's ratings, fitted on these labels and tested on profiles left out, with its accuracy where the
    majority has 0.5; ``length`` the better direction of the reply's length.
    """
    found: dict[str, Any] = {}
    for title, (language, file, read) in CONTRADICTIONS.items():
        if not (data / file).is_file():
            continue
        chosen = _balanced(read(data), seed)
        good = np.array([item.good for item in chosen])
        groups = [item.group for item in chosen]
        figures = {name: _figure(good, own, groups, seed) for name, own in _scores(composite, chosen).items()}
        ratings = [
            Rating(item.sample, DIMENSION, float(item.good), language, "", item.group, str(at))
            for at, item in enumerate(chosen)
        ]
        length = lengths(ratings)
        direction = 1 if auc(good, length) >= 0.5 else -1
        tables = _tables(language, ratings, readers.get(language), accept_terms)
        found[title] = {
            "n": len(chosen),
            "majority": 0.5,
            "length": _figure(good, direction * length, groups, seed),
            "reward": figures,
            "learnt": {name: _learnt(table, good, groups, seed) for name, table in tables.items()},
        }
    return found


def _balanced(items: Sequence[Labelled], seed: int) -> list[Labelled]:
    rng = np.random.default_rng(seed)
    chosen: list[Labelled] = []
    size = min(_EACH, *(sum(item.good == side for item in items) for side in (True, False)))
    for side in (True, False):
        own = [item for item in items if item.good == side]
        chosen += [own[at] for at in sorted(rng.permutation(len(own))[:size])]
    return chosen


def _scores(composite: CompositeReward, items: Sequence[Labelled]) -> dict[str, Floats]:
    judged = composite.score_one_by_one([item.sample for item in items])
    columns: dict[str, list[float | None]] = {"total": [judgement.total for judgement in judged]}
    for term, _, _ in composite.terms:
        columns[term.name] = [judgement.terms[term.name] for judgement in judged]
        names = sorted({name for j in judged for name in j.parts.get(term.name, {}) if name.startswith("fault.")})
        for name in names:  # a fault is a probability of something bad
            parts = [judgement.parts.get(term.name, {}).get(name) for judgement in judged]
            columns[f"{term.name}: not {name.removeprefix('fault.')}"] = [None if p is None else -p for p in parts]
    arrays = {name: np.array([np.nan if v is None else v for v in column]) for name, column in columns.items()}
    return {name: column for name, column in arrays.items() if np.isfinite(column).any()}


def _tables(language: Language, ratings: Sequence[Rating], reader: str | None, accept: bool) -> dict[str, Table]:
    base = Table.of(language, ratings, "")
    found = {"style and n-grams": base}
    if reader:
        found[f"with {reader}"] = base.read_by(reader, accept_terms=accept)
    return found


def _learnt(table: Table, good: NDArray[np.bool_], groups: Sequence[str], seed: int) -> dict[str, Any]:
    fitted = fit_aspect(table, (DIMENSION,), 0.0, table.folds("character", seed))
    odds = fitted.left_out * fitted.aspect.slope + fitted.aspect.offset
    found = _figure(good, fitted.left_out, groups, seed)
    return {**found, "accuracy": round(float(((odds > 0) == good).mean()), _DIGITS)}


def _figure(good: NDArray[np.bool_], values: Any, groups: Sequence[str], seed: int) -> dict[str, Any]:
    scores = np.asarray(values, float)
    known = np.isfinite(scores)
    y, s, g = good[known], scores[known], [group for group, own in zip(groups, known, strict=True) if own]
    return figure(lambda rows: auc(y[rows], s[rows]), g, draws=200, seed=seed)

"""A reward against people's ratings: as it is, and, for one learnt from ratings, with every reply left out in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.composite import CompositeReward
from reward.dissonance.features import NAMES, features
from reward.people.figures import agreement, published, shortness
from reward.people.fit import Table, aspects_of, by_language, fit_aspect
from reward.people.model import OVERALL
from reward.people.ratings import Rating
from reward.people.settings import RatingsConfig
from reward.text import Language

Floats = NDArray[np.float64]
DISSONANCE_PARTS = {"slogan": 1.0, "K": -1.0, "S_rule": 1.0, "ngrams": 1.0}
"""Features of the dissonance score that are measured alone; the sign says which way is dissonant."""


def measure_reward(
    composite: CompositeReward, ratings: Sequence[Rating], aim: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """By language, how far the total, every term and the baselines agree with people (see
    :func:`reward.people.figures.agreement`). Nothing is fitted, so this says how much of a reward is transfer."""
    found: dict[str, Any] = {}
    for language, own in by_language(ratings):
        scores = _reward_scores(composite, own) | baselines(own)
        found[language] = {name: agreement(values, own, aim, seed=seed) for name, values in scores.items()}
    return found


def _reward_scores(composite: CompositeReward, ratings: Sequence[Rating]) -> dict[str, Floats]:
    judged = composite.score_one_by_one([rating.sample for rating in ratings])
    scores = {"total": np.array([judgement.total for judgement in judged])}
    for term, _, _ in composite.terms:
        values = [judgement.terms[term.name] for judgement in judged]
        column = np.array([np.nan if value is None else value for value in values], float)
        if np.isfinite(column).any():
            scores[term.name] = column
    return scores


def baselines(ratings: Sequence[Rating]) -> dict[str, Floats]:
    """What a score must beat: the shorter reply, the parts of the dissonance score, a published judge."""
    rows = [features(rating.sample) for rating in ratings]
    scores: dict[str, Floats] = {"length alone": shortness(ratings)}
    for name, sign in DISSONANCE_PARTS.items():
        at = NAMES.index(name)
        scores[f"dissonance: {name}"] = np.array([np.nan if row is None else -sign * row.values[at] for row in rows])
    judge = published(ratings)
    if np.isfinite(judge).any():
        scores["published"] = judge
    return scores


def reader_curve(
    tables: Mapping[Language, Table], config: RatingsConfig
) -> dict[Language, dict[str, Mapping[str, Any]]]:
    """By language, the AUC of the people term by what reads the reply: nothing but n-grams and style, or a model.

    Shows whether a goal that small models miss is within reach of larger ones.
    """
    found: dict[Language, dict[str, Mapping[str, Any]]] = {}
    aim, others = aspects_of((), config.aim)[OVERALL]
    for language, known in tables.items():
        folds = known.folds("character", config.seed)
        steps = {"style and n-grams": known.unread()}
        for reader in config.curve:
            read = known.reader == reader  # already, for the term itself
            steps[reader] = known if read else known.read_by(reader, accept_terms=config.accept_terms)
        found[language], cost = {}, config.register_cost.get(language, 0.0)
        for name, table in steps.items():
            scores = {name: fit_aspect(table, aim, others, folds, register=cost).left_out}
            if table.reader:
                scores[f"{name} alone"] = fit_aspect(table, aim, others, folds, blocks=["reading"]).left_out
            for title, values in scores.items():
                found[language][title] = agreement(values, known.ratings, config.aim, seed=config.seed)["auc"]
    return found

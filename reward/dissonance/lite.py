"""The lite score: a logistic regression over rule-based features, one per language, weights in a JSON file.

Fitted on matched pairs: the same thing said in role, and as a biography with "I" pasted in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reward.dissonance.features import NAMES, Features, features
from reward.dissonance.lexicon import LEXICONS
from reward.dissonance.ngrams import NgramRegister, fit_ngrams
from reward.dissonance.scorer import Registers, Scorer
from reward.text import Language
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
from rlrp.errors import UserError

Array = npt.NDArray[np.float64]
WEIGHTS = LEXICONS / "dissonance_lite.json"
Pair = tuple[Sample, Sample]
"""(in role, faulty): the same card and messages, two replies."""
TAU_PERCENTILE = 75
_FOLDS = 5
# What is known before any pair is seen, as z-score weights: the pairs move these, and a feature that they happen not
# to vary keeps what it had. In matched pairs the faulty reply is nearly always the longer one; left alone the fit would
# learn that and little else and the term would pay for shortness, so length is held near 0.
_PRIOR_WEIGHT = {
    "K": -1.0,
    "biography": 1.0,
    "dates": 0.3,
    "enumeration": 0.4,
    "slogan": 0.5,
    "opener": 0.5,
    "ngrams": 1.0,
}
_PRIOR_PRECISION = 3.0
# Held at their prior of 0: length, for the reason above; S_rule, for on people's ratings it tells less than length does
# (AUC 0.40 to 0.53), and beside the n-grams it adds nothing on matched pairs. It is logged.
_HELD = {"log_length": 300.0, "S_rule": math.inf}
_LEAST_SCALE = 0.1
# Before any language model's ratios were fitted: one nat a token more of dialogue register divides the odds by e².
# Substitution counts for nothing until it has shown on labels what it adds; it is logged.
_UNFITTED_R = {"mean": 0.5, "scale": 0.5, "weight": -1.0}
_UNFITTED_S = {"mean": 0.0, "scale": 0.5, "weight": 0.0}


@dataclass(frozen=True)
class Weights:
    """One language's regression: z-scores of the features by ``mean`` and ``scale``, times ``weight``, plus ``bias``.

    ``tau``: what d exceeds counts. ``r`` and ``s``: mean, scale and weight of R and S, in nats a token.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float
    tau: float
    pairs: int
    r: dict[str, float]
    s: dict[str, float] = field(default_factory=lambda: dict(_UNFITTED_S))

    def dissonance(self, values: Sequence[float], read: Registers | None = None) -> float:
        """d in (0, 1) for features in the order of :data:`reward.dissonance.features.NAMES`."""
        z = self.bias + sum(
            w * (v - m) / s for v, m, s, w in zip(values, self.mean, self.scale, self.weight, strict=True)
        )
        for own, value in ((self.r, read.ratio if read else None), (self.s, read.tolerance if read else None)):
            if value is not None:
                z += own["weight"] * (value - own["mean"]) / own["scale"]
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, z))))


@dataclass(frozen=True)
class Validation:
    """Cross-validation over cards: the share of pairs in which the faulty reply gets the higher d, and the share in
    which it is merely the longer one; ties count half."""

    pairs: int
    cards: int
    accuracy: float
    length_baseline: float


def fit_lite(
    pairs: Sequence[Pair], scorer: Scorer | None = None, lines: Sequence[Sample] = ()
) -> dict[Language, Weights]:
    """Fit the weights of every language that the pairs hold at least ten of.

    The n-gram tables are fitted here too, fold by fold, so that no pair is weighed by a table that has seen it.

    Args:
        pairs: (in role, faulty) samples; a pair without speech on a side is left out.
        lines: more replies in role, for the n-grams.
        scorer: with it R and S are fitted like the other features, without it R keeps a cautious weight and S none.

    tau is the 75th percentile of d over the in-role replies, each scored by weights fitted without its card.
    """
    fitted: dict[Language, Weights] = {}
    for language, rows in _by_language(pairs, scorer, lines).items():
        if len(rows) < 10:
            continue
        model = _fit(rows, scorer is not None)
        held_out = [good for good, _ in _out_of_fold(rows, scorer is not None)]
        fitted[language] = Weights(**{**asdict(model), "tau": float(np.percentile(held_out, TAU_PERCENTILE))})
    return fitted


def cross_validate(
    pairs: Sequence[Pair], scorer: Scorer | None = None, lines: Sequence[Sample] = ()
) -> dict[Language, Validation]:
    """Pair accuracy by language, each pair scored by weights fitted on the other cards, beside the length baseline."""
    result: dict[Language, Validation] = {}
    for language, rows in _by_language(pairs, scorer, lines).items():
        scores = _out_of_fold(rows, scorer is not None)
        lengths = [(row.good.length, row.bad.length) for row in rows]
        cards = len({row.card.name for row in rows})
        result[language] = Validation(len(rows), cards, _accuracy(scores), _accuracy(lengths))
    return result


def save_weights(weights: dict[Language, Weights], file: str | Path = WEIGHTS) -> None:
    """Write the weights as JSON, six significant digits."""
    rounded = {language: _rounded({"features": list(NAMES), **asdict(w)}) for language, w in sorted(weights.items())}
    Path(file).write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_weights(file: str | Path = WEIGHTS) -> dict[Language, Weights]:
    """Read what :func:`save_weights` wrote; UserError when it does not fit the features of this version."""
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
        loaded = {}
        for language, row in data.items():
            if row.pop("features") != list(NAMES):
                raise UserError(
                    f"fitted for other features than {', '.join(NAMES)}; fit again", file=file, place=language
                )
            for key in ("mean", "scale", "weight"):
                row[key] = tuple(float(x) for x in row[key])
            loaded[language] = Weights(**row)
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not a file of dissonance weights: {error}", file=file) from error
    return loaded


@dataclass(frozen=True)
class _Row:
    card: CharacterCard
    good: Features
    bad: Features
    read: tuple[Registers | None, Registers | None]


def _by_language(pairs: Sequence[Pair], scorer: Scorer | None, lines: Sequence[Sample]) -> dict[Language, list[_Row]]:
    read: list[Registers | None] = [None] * (2 * len(pairs))
    if scorer is not None:
        read = scorer.read([sample for pair in pairs for sample in pair])
    grouped: dict[Language, list[_Row]] = {}
    for at, (in_role, faulty) in enumerate(pairs):
        good, bad = features(in_role), features(faulty)
        if good is None or bad is None or good.language != bad.language:
            continue
        row = _Row(in_role.card, good, bad, (read[2 * at], read[2 * at + 1]))
        grouped.setdefault(good.language, []).append(row)
    return {language: _with_unseen_ngrams(language, rows, lines) for language, rows in grouped.items()}


def _with_unseen_ngrams(language: Language, rows: Sequence[_Row], lines: Sequence[Sample]) -> list[_Row]:
    """The rows with the n-grams' ratio by tables that have not seen their cards."""
    fold_of = _folds(rows)
    spoken = [(found.speech, s.card) for s in lines if (found := features(s)) and found.language == language]
    result = list(rows)
    for fold in sorted(set(fold_of.values())):
        seen = [row for row in rows if fold_of[row.card.name] != fold]
        others = [(text, card) for text, card in spoken if fold_of.get(card.name) != fold]
        said = [(row.good.speech, row.card) for row in seen] + others
        table = fit_ngrams(language, said, [(row.bad.speech, row.card) for row in seen])
        for at, row in enumerate(rows):
            if fold_of[row.card.name] == fold:
                good, bad = (_rescored(found, table, row.card) for found in (row.good, row.bad))
                result[at] = replace(row, good=good, bad=bad)
    return result


def _rescored(found: Features, table: NgramRegister, card: CharacterCard) -> Features:
    values = list(found.values)
    values[NAMES.index("ngrams")] = table.score(found.speech, card)
    return replace(found, values=tuple(values))


def _folds(rows: Sequence[_Row]) -> dict[str, int]:
    """The fold of each card, dealt in turn."""
    cards = sorted({row.card.name for row in rows})
    folds = min(_FOLDS, len(cards))
    if folds < 2:
        raise UserError("cross-validation over cards needs pairs of at least two cards", place="pairs")
    return {card: at % folds for at, card in enumerate(cards)}


def _fit(rows: Sequence[_Row], with_ratio: bool) -> Weights:
    x = np.array([f.values for row in rows for f in (row.good, row.bad)])  # (2 pairs, features)
    y = np.array([0.0, 1.0] * len(rows))
    center, scale = x.mean(axis=0), np.maximum(x.std(axis=0), _LEAST_SCALE)
    z = (x - center) / scale
    prior = [_PRIOR_WEIGHT.get(name, 0.0) for name in NAMES]
    precision = [_HELD.get(name, _PRIOR_PRECISION) for name in NAMES]
    found = {"R": dict(_UNFITTED_R), "S": dict(_UNFITTED_S)}
    for name, own in found.items() if with_ratio else ():
        key = {"R": "ratio", "S": "tolerance"}[name]
        values = [None if read is None else getattr(read, key) for row in rows for read in row.read]
        known = [value for value in values if value is not None]
        if not known:
            raise UserError(f"the language model had no {name} for any of the pairs", place="scorer")
        own["mean"], own["scale"] = float(np.mean(known)), max(float(np.std(known)), 1e-3)
        z = np.column_stack([z, [0.0 if v is None else (v - own["mean"]) / own["scale"] for v in values]])
        prior.append(own["weight"])
        precision.append(_PRIOR_PRECISION)
    weight = _logistic(z, y, np.array(prior), np.array(precision))
    bias = weight.pop()
    if with_ratio:
        found["S"]["weight"], found["R"]["weight"] = weight.pop(), weight.pop()
    scales = tuple(center.tolist()), tuple(scale.tolist())
    return Weights(*scales, tuple(weight), bias, 0.5, len(rows), found["R"], found["S"])


def _logistic(z: Array, y: Array, prior: Array, precision: Array) -> list[float]:
    """Maximum a posteriori logistic regression by Newton's method; the last number is the bias, which has no prior.

    Gaussian prior with mean ``prior`` and ``precision`` a weight (F,), infinite for one that is not to move; ``z``
    (N, F), ``y`` (N,) in {0, 1}.
    """
    design = np.column_stack([z, np.ones(len(z))])
    mean = np.append(prior, 0.0)
    penalty = np.append(precision, 1e-6)
    moved = np.isfinite(penalty)  # the others keep their prior
    design, fixed = design[:, moved], design[:, ~moved] @ mean[~moved]
    w, start, penalty = mean.copy(), mean[moved], penalty[moved]
    free = start.copy()
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ free + fixed, -30, 30)))
        gradient = design.T @ (p - y) + penalty * (free - start)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        free = free - step
        if np.abs(step).max() < 1e-8:
            break
    w[moved] = free
    return [float(value) for value in w]


def _out_of_fold(rows: Sequence[_Row], with_ratio: bool) -> list[tuple[float, float]]:
    """(d in role, d faulty) of every pair by weights fitted without its card; cards are dealt to folds in turn."""
    fold_of = _folds(rows)
    models = [
        _fit([row for row in rows if fold_of[row.card.name] != fold], with_ratio)
        for fold in range(max(fold_of.values()) + 1)
    ]
    scores = []
    for row in rows:
        model = models[fold_of[row.card.name]]
        good, bad = row.read if with_ratio else (None, None)
        scores.append((model.dissonance(row.good.values, good), model.dissonance(row.bad.values, bad)))
    return scores


def _accuracy(scores: Sequence[tuple[float, float]]) -> float:
    return sum(1.0 if bad > good else 0.5 if bad == good else 0.0 for good, bad in scores) / len(scores)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, (list, tuple)) else value

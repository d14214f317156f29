"""A calibrated linear classifier that is trained with scikit-learn and stored and used without it (and without pickle).

Logistic regression on standardised columns; the probability is Platt's: a logistic curve over the linear score, fitted
on scores of characters that the classifier had not seen. Isotonic calibration was left out: its steps make ties, and a
reward that ties says nothing about which of two replies is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_CLIP = 4.0
"""In standard deviations: no single odd feature decides, also not of text that nothing in training was like."""
_HIGH = 0.9
"""The quantile of the positives above which a one-sided column counts no more."""
_FIELDS = ("mean", "scale", "ceiling", "coef", "intercept", "platt")


@dataclass(frozen=True)
class LinearHead:
    """Everything needed to turn feature rows into probabilities.

    Args:
        mean, scale: (D,), what is subtracted from a row and what it is divided by.
        ceiling: (D,), in standard deviations: a column counts no more than this, however high it is.
        coef: (D,); intercept: (1,).
        platt: (2,), slope and offset of the calibration.
    """

    mean: Floats
    scale: Floats
    ceiling: Floats
    coef: Floats
    intercept: Floats
    platt: Floats

    def standardised(self, rows: Floats) -> Floats:
        """The rows in standard deviations from the mean, clipped."""
        return _clipped((rows - self.mean) / self.scale, self.ceiling)

    def contributions(self, rows: Floats) -> Floats:
        """What each column adds to the calibrated log-odds, (N, D)."""
        return np.asarray(self.standardised(rows) * (self.coef * self.platt[0]), np.float32)

    def log_odds(self, rows: Floats) -> Floats:
        """Calibrated log-odds of a positive, (N,)."""
        offset = float(self.intercept[0] * self.platt[0] + self.platt[1])
        return np.asarray(self.contributions(rows).sum(axis=1) + offset, np.float32)

    def tensors(self, prefix: str) -> dict[str, Floats]:
        """The arrays under names that begin with ``prefix``, for safetensors."""
        return {f"{prefix}.{name}": np.ascontiguousarray(getattr(self, name), np.float32) for name in _FIELDS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Floats], prefix: str, columns: int) -> LinearHead:
        """The head stored under ``prefix``.

        Raises:
            ValueError: an array is missing, of the wrong shape or not finite; the message says which.
        """
        shapes = {"intercept": (1,), "platt": (2,)}
        for name in _FIELDS:
            array, shape = tensors.get(f"{prefix}.{name}"), shapes.get(name, (columns,))
            if array is None:
                raise ValueError(f"{prefix}.{name} is missing")
            if array.shape != shape:
                raise ValueError(f"{prefix}.{name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{prefix}.{name} is not finite")
        return cls(*(tensors[f"{prefix}.{name}"] for name in _FIELDS))


@dataclass(frozen=True)
class Fitted:
    """A head, how it was chosen, and the log-odds (N,) of every row by a model that had not seen its character."""

    head: LinearHead
    strength: float
    log_loss: float
    left_out: Floats


def sigmoid(log_odds: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(log_odds / 2)), dtype=np.float32)


def fit_head(
    rows: Floats,
    labels: NDArray[np.int64],
    weights: Floats,
    groups: Sequence[str],
    *,
    learn: NDArray[np.bool_] | None = None,
    column_scale: Floats | float = 1.0,
    one_sided: NDArray[np.bool_] | None = None,
    strengths: Sequence[float] = (0.01, 0.03, 0.1, 0.3),
    folds: int = 5,
) -> Fitted:
    """Fit; the strength with the least log loss on characters left out is taken, and so are the scores for Platt.

    Args:
        rows: (N, D), raw features.
        labels: 1 for positives.
        weights: of the samples.
        groups: the character of each; a character is never on both sides of a fold.
        learn: which rows to learn from, all by default; the others are only scored.
        column_scale: (D,), the size given to each standardised column: the smaller, the more it is regularised.
        one_sided: (D,), columns that count no more than they do in nine of ten positives, so that there is nothing
            to gain from having more of it than people's replies do.
        strengths: values of scikit-learn's C to choose from.
    """
    learn = np.ones(len(labels), bool) if learn is None else learn
    scaler = _scaler(rows[learn], labels[learn], one_sided)
    columns = scaler.standardised(rows) * column_scale
    choice = fit_calibrated(columns, labels, weights, groups, learn, strengths, folds)
    coef = (choice.coef * column_scale).astype(np.float32)
    head = replace(scaler, coef=coef, intercept=choice.intercept, platt=choice.platt)
    return Fitted(head, choice.strength, choice.log_loss, choice.left_out)


@dataclass(frozen=True)
class Choice:
    """A regression on given columns (as they are), the strength chosen, and what it says of characters left out."""

    coef: Floats
    intercept: Floats
    platt: Floats
    strength: float
    log_loss: float
    left_out: Floats


def fit_calibrated(
    columns: Any,
    labels: NDArray[np.int64],
    weights: Floats,
    groups: Sequence[str],
    learn: NDArray[np.bool_],
    strengths: Sequence[float],
    folds: int = 5,
) -> Choice:
    """As :func:`fit_head`, on columns (dense or sparse) that need no scaling."""
    weights = balanced(weights, labels, learn)
    tried = {C: _left_out(columns, labels, weights, groups, learn, C, folds) for C in strengths}
    losses = {C: _log_loss(found[0][learn], labels[learn], weights[learn]) for C, found in tried.items()}
    best = min(strengths, key=lambda C: losses[C])
    model = regression(best).fit(columns[learn], labels[learn], sample_weight=weights[learn])
    coef, intercept = model.coef_[0].astype(np.float32), model.intercept_.astype(np.float32)
    left_out, platt = tried[best]
    return Choice(coef, intercept, platt, float(best), losses[best], left_out)


def _scaler(rows: Floats, labels: NDArray[np.int64], one_sided: NDArray[np.bool_] | None) -> LinearHead:
    """A head that standardises and does nothing else. Means and deviations carry no labels: one for all folds."""
    width = rows.shape[1]
    deviation = rows.std(axis=0, dtype=np.float64)
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
    ceiling = np.full(width, _CLIP, np.float32)
    if one_sided is not None and one_sided.any():
        high = np.quantile(rows[labels == 1][:, one_sided], _HIGH, axis=0)
        ceiling[one_sided] = np.minimum((high - mean[one_sided]) / scale[one_sided], _CLIP)
    zero = np.zeros(width, np.float32)
    return LinearHead(mean, scale, ceiling, zero, np.zeros(1, np.float32), np.array([1.0, 0.0], np.float32))


def balanced(weights: Floats, labels: NDArray[np.int64], learn: NDArray[np.bool_]) -> Floats:
    """The weights, with those of the negatives to learn from scaled to the sum of the positives."""
    positive, negative = weights[learn & (labels == 1)].sum(), weights[learn & (labels == 0)].sum()
    return np.where(labels == 1, weights, weights * (positive / max(negative, 1e-9))).astype(np.float32)


def _clipped(standardised: Floats, ceiling: Floats) -> Floats:
    return np.clip(standardised, -_CLIP, ceiling).astype(np.float32)


def regression(strength: float) -> Any:
    """scikit-learn's estimator, not yet fitted."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)


def _left_out(
    columns: Any,
    labels: NDArray[np.int64],
    weights: Floats,
    groups: Sequence[str],
    learn: NDArray[np.bool_],
    strength: float,
    folds: int,
) -> tuple[Floats, Floats]:
    """Each row's calibrated log-odds by a model that did not see its character, and Platt's slope and offset."""
    from sklearn.model_selection import GroupKFold

    scores = np.zeros(len(labels), dtype=np.float32)
    splits = GroupKFold(min(folds, len(set(groups)))).split(labels, labels, groups)
    for seen, unseen in splits:
        taught = seen[learn[seen]]
        model = regression(strength).fit(columns[taught], labels[taught], sample_weight=weights[taught])
        scores[unseen] = model.decision_function(columns[unseen])
    slope, offset = platt(scores[learn], labels[learn], weights[learn])
    return scores * slope + offset, np.array([slope, offset], np.float32)


def platt(scores: Floats, labels: NDArray[np.int64], weights: Floats) -> tuple[float, float]:
    """Slope and offset of the logistic curve from score to probability."""
    model = regression(1e3).fit(scores[:, None], labels, sample_weight=weights)
    # A slope at or below zero would turn the ranking round; that the scores are worthless is for validation to say.
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])


def _log_loss(log_odds: Floats, labels: NDArray[np.int64], weights: Floats) -> float:
    signed = np.where(labels == 1, -log_odds, log_odds)
    return float(np.average(np.logaddexp(0.0, signed), weights=weights))

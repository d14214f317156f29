"""A calibrated linear classifier that is trained with scikit-learn and stored and used without it (and without pickle).

Logistic regression on standardised columns; the probability is Platt's: a logistic curve over the linear score, fitted
on scores of characters that the classifier had not seen. Isotonic calibration was left out: its steps make ties, and a
reward that ties says nothing about which of two replies is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_CLIP = 4.0
"""In standard deviations: no single odd feature decides, also not of text that nothing in training was like."""
_FIELDS = ("mean", "scale", "coef", "intercept", "platt")


@dataclass(frozen=True)
class LinearHead:
    """Everything needed to turn feature rows into probabilities.

    Args:
        mean, scale: (D,), what is subtracted from a row and what it is divided by; the quotient is clipped.
        coef: (D,); intercept: (1,).
        platt: (2,), slope and offset of the calibration.
    """

    mean: Floats
    scale: Floats
    coef: Floats
    intercept: Floats
    platt: Floats

    def contributions(self, rows: Floats) -> Floats:
        """What each column adds to the calibrated log-odds, (N, D)."""
        return _standardised(rows, self.mean, self.scale) * (self.coef * self.platt[0])

    def log_odds(self, rows: Floats) -> Floats:
        """Calibrated log-odds of a positive, (N,)."""
        return self.contributions(rows).sum(axis=1) + float(self.intercept[0] * self.platt[0] + self.platt[1])

    def tensors(self, prefix: str) -> dict[str, Floats]:
        """The arrays under names that begin with ``prefix``, for safetensors."""
        return {f"{prefix}.{name}": np.ascontiguousarray(getattr(self, name), np.float32) for name in _FIELDS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Floats], prefix: str, columns: int) -> LinearHead:
        """The head stored under ``prefix``.

        Raises:
            ValueError: an array is missing, of the wrong shape or not finite; the message says which.
        """
        shapes = {"mean": (columns,), "scale": (columns,), "coef": (columns,), "intercept": (1,), "platt": (2,)}
        for name, shape in shapes.items():
            array = tensors.get(f"{prefix}.{name}")
            if array is None:
                raise ValueError(f"{prefix}.{name} is missing")
            if array.shape != shape:
                raise ValueError(f"{prefix}.{name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{prefix}.{name} is not finite")
        return cls(*(tensors[f"{prefix}.{name}"] for name in _FIELDS))


def sigmoid(x: Floats) -> Floats:
    return (0.5 * (1 + np.tanh(x / 2))).astype(np.float32)


def fit_head(
    rows: Floats,
    labels: NDArray[np.int64],
    weights: Floats,
    groups: Sequence[str],
    *,
    column_scale: Floats | float = 1.0,
    strengths: Sequence[float],
    folds: int = 5,
) -> tuple[LinearHead, dict[str, float]]:
    """Fit; the strength with the least log loss on characters left out is taken, and so are the scores for Platt.

    Args:
        rows: (N, D), raw features.
        labels: 1 for positives.
        weights: of the samples.
        groups: the character of each; a character is never on both sides of a fold.
        column_scale: (D,), the size given to each standardised column: the smaller, the more it is regularised.
        strengths: values of scikit-learn's C to choose from.

    Returns:
        The head, and ``{"C", "log_loss"}`` of the choice.
    """
    mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    mean, deviation = mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
    # Standardised once over all characters: means and deviations carry no labels.
    columns = _standardised(rows, mean, deviation) * column_scale
    tried: dict[float, tuple[float, Floats]] = {}
    for strength in strengths:
        scores = _scores_left_out(columns, labels, weights, groups, strength, folds)
        slope_offset = _platt(scores, labels, weights)
        tried[strength] = _log_loss(scores * slope_offset[0] + slope_offset[1], labels, weights), slope_offset
    best = min(strengths, key=lambda strength: tried[strength][0])
    model = _regression(best).fit(columns, labels, sample_weight=weights)
    coef = (model.coef_[0] * column_scale).astype(np.float32)
    head = LinearHead(mean, deviation, coef, model.intercept_.astype(np.float32), tried[best][1])
    return head, {"C": float(best), "log_loss": tried[best][0]}


def _standardised(rows: Floats, mean: Floats, scale: Floats) -> Floats:
    return np.clip((rows - mean) / scale, -_CLIP, _CLIP).astype(np.float32)


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)


def _scores_left_out(
    columns: Floats, labels: NDArray[np.int64], weights: Floats, groups: Sequence[str], strength: float, folds: int
) -> Floats:
    """Each sample's linear score from a model that did not see its character."""
    from sklearn.model_selection import GroupKFold

    scores = np.zeros(len(labels), dtype=np.float32)
    splits = GroupKFold(min(folds, len(set(groups)))).split(columns, labels, groups)
    for seen, unseen in splits:
        model = _regression(strength).fit(columns[seen], labels[seen], sample_weight=weights[seen])
        scores[unseen] = model.decision_function(columns[unseen])
    return scores


def _platt(scores: Floats, labels: NDArray[np.int64], weights: Floats) -> Floats:
    """Slope and offset of the logistic curve from score to probability."""
    model = _regression(1e3).fit(scores[:, None], labels, sample_weight=weights)
    # A slope at or below zero would turn the ranking round; that a fold's scores are useless is for validation to say.
    return np.array([max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])], dtype=np.float32)


def _log_loss(log_odds: Floats, labels: NDArray[np.int64], weights: Floats) -> float:
    signed = np.where(labels == 1, -log_odds, log_odds)
    return float(np.average(np.logaddexp(0.0, signed), weights=weights))

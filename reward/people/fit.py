"""Training of the term that predicts people's ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.linear import regression
from reward.people.columns import StyleColumns, style_names, wording
from reward.people.model import OVERALL, Aspect, Columns, PeopleModel, standardised
from reward.people.ratings import Rating
from reward.people.reader import shared_reader
from reward.spans import visible
from reward.text import Language
from rlrp.errors import UserError
from rlrp.progress import progress

Floats = NDArray[np.float32]
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows to learn from and rows to predict."""
STRENGTHS = {"style": 3.0, "wording": 30.0, "reading": 30.0}
"""Ridge penalty of each block for every rating learnt from. Strong, and fixed: chosen by the error on characters left
out it comes out ten times weaker, and ranks worse."""
MIX = {"style": 1.0, "wording": 0.6, "reading": 1.5}
"""How much each block's prediction, in its own standard deviations, counts. Fixed: there are too few ratings to learn
it from, and the predictions err in different ways."""
OTHERS = 0.15
"""Weight, in ``overall``, of ratings of other dimensions than the aim: they say a little of every reply's quality."""
_FOLDS = 10
_MIN_RATINGS = 40
_BATCH = 64


@dataclass(frozen=True)
class Fitted:
    """An aspect, and its raw score (N,) of every row by a model that had not seen its character."""

    aspect: Aspect
    left_out: Floats


@dataclass
class Table:
    """The ratings of one language as numbers: columns, standardised targets, dimensions and characters."""

    language: Language
    ratings: Sequence[Rating]
    columns: Columns
    style_scale: Floats
    reading_scale: Floats
    vectorizer: Any
    reader: str

    @classmethod
    def of(cls, language: Language, ratings: Sequence[Rating], reader: str, *, accept_terms: bool = False) -> Table:
        """Compute every column; replies are read by the language model if one is named.

        Raises:
            UserError: too few ratings, or a reader that cannot be loaded.
        """
        if len(ratings) < _MIN_RATINGS:
            raise UserError(f"{language}: {len(ratings)} ratings; at least {_MIN_RATINGS} are needed", place="data")
        samples = [rating.sample for rating in ratings]
        style, style_scale = _scaled(StyleColumns().rows(samples, language))
        vectorizer = wording(min_df=2)
        try:
            words = vectorizer.fit_transform([visible(sample.reply) for sample in samples])
        except ValueError as error:
            raise UserError(f"{language}: the replies share no wording ({error})", place="data") from None
        none, no_scale = np.zeros((len(samples), 0), np.float32), np.zeros((2, 0), np.float32)
        columns = Columns(style, words.tocsr(), none)
        table = cls(language, ratings, columns, style_scale, no_scale, vectorizer, "")
        return table.read_by(reader, accept_terms=accept_terms) if reader else table

    def read_by(self, reader: str, *, accept_terms: bool = False) -> Table:
        """The same ratings with what a language model reads in the replies."""
        samples = [rating.sample for rating in self.ratings]
        model, rows = shared_reader(reader, accept_terms), []
        with progress(f"{self.language}: replies read by {reader}", len(samples)) as advance:
            for start in range(0, len(samples), _BATCH):
                rows.append(model.read(samples[start : start + _BATCH]))
                advance(len(rows[-1]))
        reading, scale = _scaled(np.concatenate(rows))
        return replace(self, columns=replace(self.columns, reading=reading), reading_scale=scale, reader=reader)

    def unread(self) -> Table:
        """The same ratings without what a language model read."""
        none, no_scale = np.zeros((len(self.ratings), 0), np.float32), np.zeros((2, 0), np.float32)
        return replace(self, columns=replace(self.columns, reading=none), reading_scale=no_scale, reader="")

    @property
    def dimensions(self) -> NDArray[np.object_]:
        return np.array([rating.dimension for rating in self.ratings], dtype=object)

    def targets(self) -> Floats:
        """Scores in standard deviations of their dimension."""
        scores, dimensions = np.array([r.score for r in self.ratings]), self.dimensions
        found = np.zeros(len(scores), np.float32)
        for dimension in set(dimensions):
            own = dimensions == dimension
            found[own] = (scores[own] - scores[own].mean()) / max(scores[own].std(), 1e-6)
        return found

    def folds(self, by: str = "character", seed: int = 0) -> list[Fold]:
        """Ten parts of whole characters, or every generator alone in turn."""
        groups = np.array([getattr(rating, by) for rating in self.ratings], dtype=object)
        names = sorted(set(groups))
        if len(names) < 2:
            raise UserError(f"{self.language}: all ratings have one {by}; cross-validation needs two", place="data")
        if by == "character":
            order = np.random.default_rng(seed).permutation(len(names))
            part = {names[at]: place % _FOLDS for place, at in enumerate(order)}
        else:
            part = {name: at for at, name in enumerate(names)}
        numbers = np.array([part[name] for name in groups])
        return [(np.flatnonzero(numbers != n), np.flatnonzero(numbers == n)) for n in sorted(set(part.values()))]

    def weights(self, aim: Sequence[str], others: float) -> Floats:
        return np.where(np.isin(self.dimensions, list(aim)), 1.0, others).astype(np.float32)

    def model(self, aspects: Mapping[str, Aspect]) -> PeopleModel:
        vocabulary = {str(word): at for at, word in enumerate(self.vectorizer.get_feature_names_out())}
        rarity = self.vectorizer.idf_.astype(np.float32)
        return PeopleModel(
            self.language, self.style_scale, self.reading_scale, vocabulary, rarity, aspects, self.reader
        )


def aspects_of(dimensions: Sequence[str], aim: Sequence[str]) -> dict[str, tuple[tuple[str, ...], float]]:
    """The aspects to fit: by name the dimensions that count in full, and the weight of the others."""
    own = {dimension: ((dimension,), 0.0) for dimension in dimensions if dimension != OVERALL}
    return {OVERALL: (tuple(aim), OTHERS), **own}


def fit_aspect(
    table: Table,
    aim: Sequence[str],
    others: float,
    folds: Sequence[Fold],
    *,
    blocks: Sequence[str] | None = None,
    register: float = 0.0,
) -> Fitted:
    """Fit one aspect; every row's score by models that did not see its fold comes with it.

    Args:
        blocks: which blocks of columns to use; None takes all that the table has.
        register: what a standard deviation more of the shipped n-gram register costs, in the raw score's own.

    Raises:
        UserError: the same rating everywhere, or of too few characters for leaving some out.
    """
    weights, targets = table.weights(aim, others), table.targets()
    named = f"{table.language}: {', '.join(aim)}"
    if not all((weights[seen] > 0).any() for seen, _ in folds):
        raise UserError(f"{named}: ratings of too few characters; cross-validation needs two and more", place="data")
    used = [name for name in (blocks or MIX) if getattr(table.columns, name).shape[1]]
    width = {name: getattr(table.columns, name).shape[1] for name in MIX}
    left_out, constant = np.zeros(len(targets), np.float32), 0.0
    coefs = {name: np.zeros(width[name], np.float32) for name in MIX}
    taught = weights > 0
    for name in used:
        rows, alpha = getattr(table.columns, name), STRENGTHS[name] * float(weights.sum())
        found = _left_out(rows, targets, weights, folds, alpha)
        mean, deviation = _moments(found, weights)
        model = _ridge(alpha).fit(rows[taught], targets[taught], sample_weight=weights[taught])
        share = MIX[name] / deviation
        coefs[name] = (model.coef_ * share).astype(np.float32)
        constant += float((model.intercept_ - mean) * share)
        left_out += (found - mean) * share
    if register:
        at, spread = style_names(table.language).index("dissonance:ngrams"), _moments(left_out, weights)[1]
        coefs["style"][at] -= register * spread
        left_out -= register * spread * table.columns.style[:, at]
    aimed = np.isin(table.dimensions, list(aim))
    good = targets[aimed] > 0
    if good.all() or not good.any():
        raise UserError(f"{named}: all replies have the same rating; there is nothing to learn", place="data")
    slope, offset = _platt(left_out[aimed], good)
    aspect = Aspect(coefs["style"], coefs["wording"], coefs["reading"], constant, slope, offset)
    return Fitted(aspect, left_out)


def _left_out(rows: Any, targets: Floats, weights: Floats, folds: Sequence[Fold], alpha: float) -> Floats:
    found = np.zeros(len(targets), np.float32)
    for seen, unseen in folds:
        taught = seen[weights[seen] > 0]
        found[unseen] = (
            _ridge(alpha).fit(rows[taught], targets[taught], sample_weight=weights[taught]).predict(rows[unseen])
        )
    return found


def _ridge(alpha: float) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=alpha)


def _moments(values: Floats, weights: Floats) -> tuple[float, float]:
    mean = float(np.average(values, weights=weights))
    return mean, max(float(np.sqrt(np.average((values - mean) ** 2, weights=weights))), 1e-6)


def _platt(scores: Floats, good: NDArray[np.bool_]) -> tuple[float, float]:
    model = regression(1e3).fit(scores[:, None], good.astype(int))
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])


def _scaled(rows: Floats) -> tuple[Floats, Floats]:
    """Standardised rows, and the means and deviations, which carry no labels: one for all folds."""
    deviation = rows.std(axis=0)
    scale = np.stack([rows.mean(axis=0), np.where(deviation > 1e-6, deviation, 1.0)]).astype(np.float32)
    return standardised(rows, scale), scale


def by_language(ratings: Sequence[Rating]) -> Iterator[tuple[Language, list[Rating]]]:
    for language in sorted({rating.language for rating in ratings}, reverse=True):
        yield language, [rating for rating in ratings if rating.language == language]


__all__ = ["Fitted", "Table", "aspects_of", "by_language", "fit_aspect", "style_names"]

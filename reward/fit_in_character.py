"""Training of the in-character classifier from labelled examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward.embedding import Encoder, NgramEncoder, ngram_dimension, sentence_encoder
from reward.features import card_summary, feature_names, visible_text
from reward.heads.examples import fault_weights, known_faults
from reward.heads.faults import PREFIX
from reward.heads.linear import Columns, LanguageModel, LinearClassifier, columns_of, joint_rows
from reward.in_character import InCharacterTerm
from reward.linear import Fitted, fit_head
from reward.matching import COSINES, EXCESSES, OVERLAPS, Rarity, match_names, terms
from reward.negatives import IN_ROLE, MISPLACED, Example
from reward.text import Language
from rlrp.errors import UserError

Floats = NDArray[np.float32]
_BLOCK = 50.0
"""Columns of a block that together get the freedom of as many single columns; wider blocks share it."""
_ONE_SIDED = frozenset(OVERLAPS + COSINES)
_JOINT_STRENGTHS = (100.0,)
_VOICE_STRENGTHS = (0.01, 0.03, 0.1, 0.3)
_MATCH_STRENGTHS = (0.003, 0.01, 0.03, 0.1)
_FAULT_STRENGTHS = (0.01, 0.1)
_FAULT_FOLDS = 4


@dataclass(frozen=True)
class FitReport:
    """How a language's heads were chosen: scikit-learn's C and the log loss on characters left out."""

    examples: int
    characters: int
    chosen: dict[str, dict[str, float]]


def fit_in_character(
    examples: Sequence[Example], encoders: Mapping[Language, str], *, seed: int = 0
) -> tuple[InCharacterTerm, dict[Language, FitReport]]:
    """Train one classifier for every language that the examples are in.

    Args:
        encoders: by language, the spec of the encoder (see :class:`~reward.embedding.SentenceEncoder`) or ``ngrams:N``.

    Raises:
        UserError: a language has too few characters to leave some out, or an encoder that cannot be loaded.
    """
    by_language: dict[Language, list[Example]] = defaultdict(list)
    for example in examples:
        by_language[example.sample.card.language].append(example)
    models: dict[Language, LanguageModel] = {}
    reports: dict[Language, FitReport] = {}
    for language, own in sorted(by_language.items()):
        require_enough(own, language)
        encoder = _encoder(encoders[language], own, seed)
        models[language], reports[language] = _fit_language(language, own, encoder)
    return InCharacterTerm(LinearClassifier(models)), reports


def require_enough(examples: Sequence[Example], language: Language) -> None:
    characters = {example.slug for example in examples if example.label}
    faults = {example.slug for example in examples if not example.label and example.kind not in MISPLACED}
    if len(characters) < 4 or len(faults) < 2:
        raise UserError(
            f"{language}: {len(characters)} characters with replies in role and {len(faults)} with faulty ones; a "
            "classifier needs at least 4 and 2: give more cards with dialogues, contrasts or base replies"
        )


def _encoder(spec: str, examples: Sequence[Example], seed: int) -> Encoder:
    dimension = ngram_dimension(spec)
    if dimension is None:
        return sentence_encoder(spec)
    texts = dict.fromkeys(visible_text(example.sample.reply) for example in examples)
    return NgramEncoder.fit(list(texts), dimension, seed=seed)


def _fit_language(language: Language, examples: Sequence[Example], encoder: Encoder) -> tuple[LanguageModel, FitReport]:
    rarity = Rarity.fit(terms(text, language) for text in texts_of_characters(examples))
    columns, mean, scale = columns_of([example.sample for example in examples], language, encoder, rarity)
    labels = np.array([example.label for example in examples])
    weights = np.array([example.weight for example in examples], np.float32)
    slugs = [example.slug for example in examples]
    misplaced = np.array([example.kind in MISPLACED for example in examples])
    positive = labels == 1

    def fit(
        rows: Floats, learn: NDArray[np.bool_], blocks: Sequence[int], names: Sequence[str], C: Sequence[float]
    ) -> Fitted:
        ceiling = np.array([name in _ONE_SIDED for name in names])
        scale = _block_scale(blocks)
        return fit_head(rows, labels, weights, slugs, learn=learn, column_scale=scale, one_sided=ceiling, strengths=C)

    styles = feature_names(language)
    voice_names = [""] * encoder.dimension + list(styles)
    match_columns = match_names(styles, semantic=encoder.semantic)
    shared = [len(OVERLAPS), len(EXCESSES)] + ([len(COSINES)] if encoder.semantic else [])
    voice = fit(columns.voice, positive | ~misplaced, [encoder.dimension, len(styles)], voice_names, _VOICE_STRENGTHS)
    match = fit(columns.match, positive | misplaced, [*shared, len(styles)], match_columns, _MATCH_STRENGTHS)
    rows = joint_rows(voice.left_out, match.left_out)
    joint = fit(rows, np.ones(len(labels), bool), [2], ("voice", "match"), _JOINT_STRENGTHS)
    fitted = {"voice": voice, "match": match, "joint": joint}
    chosen = {name: {"C": found.strength, "log_loss": found.log_loss} for name, found in fitted.items()}
    scales = np.concatenate([_block_scale([encoder.dimension, len(styles)]), _block_scale([*shared, len(styles)])])
    faults = _fit_faults(examples, columns, scales)
    chosen |= {f"{PREFIX}{name}": {"C": own.strength, "log_loss": own.log_loss} for name, own in faults.items()}
    known = {name: own.head for name, own in faults.items()}
    model = LanguageModel(language, encoder, rarity, mean, scale, voice.head, match.head, joint.head, known)
    return model, FitReport(len(examples), len(set(slugs)), chosen)


def _fit_faults(examples: Sequence[Example], columns: Columns, scales: Floats) -> dict[str, Fitted]:
    """A head for each fault that enough characters have examples of."""
    rows, slugs = columns.all, np.array([example.slug for example in examples])
    fitted = {}
    for name in known_faults(examples):
        own, weights = fault_weights(examples, name)
        kept = weights > 0  # the rest are left out also of what the calibration sees
        fitted[name] = fit_head(
            rows[kept],
            own[kept].astype(np.int64),
            weights[kept],
            slugs[kept].tolist(),
            column_scale=scales,
            strengths=_FAULT_STRENGTHS,
            folds=_FAULT_FOLDS,
        )
    return fitted


def _block_scale(widths: Sequence[int]) -> Floats:
    """(D,): the size of each column, so that blocks of any width are regularised alike."""
    return np.concatenate([np.full(width, np.sqrt(_BLOCK / width), np.float32) for width in widths])


def texts_of_characters(examples: Sequence[Example]) -> list[str]:
    """For each character its card and everything said with it, each text once."""
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for example in examples:
        if example.kind == IN_ROLE:
            sample = example.sample
            said = [message.content for message in sample.messages]
            texts[example.slug].update(dict.fromkeys([card_summary(sample.card), *said, sample.reply]))
    return ["\n".join(own) for own in texts.values()]

"""Training of the judge, and which characters are its own."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.sparse import hstack

from reward.fit_in_character import texts_of_characters
from reward.heads.linear import joint_rows
from reward.judge import (
    JudgeModel,
    JudgeTerm,
    Wording,
    character_vectorizer,
    ngrams,
    reply_text,
    word_vectorizer,
)
from reward.linear import fit_calibrated, fit_head
from reward.matching import OVERLAPS, Rarity, overlap_rows
from reward.negatives import MISPLACED, Example
from reward.text import Language

_STRENGTHS = (10.0,)
_MATCH_STRENGTHS = (0.1, 1.0)
_MAX_FEATURES = 6000
"""Of each of the two vocabularies."""
REWARD_SHARE = 2 / 3


def split_characters(
    slugs: Sequence[str], seed: int, *, reward_share: float = REWARD_SHARE
) -> tuple[set[str], set[str]]:
    """The characters that train the reward, and the others, which train the judge; both have at least one.

    Raises:
        ValueError: fewer than two characters.
    """
    if len(slugs) < 2:
        raise ValueError(f"got {len(slugs)} characters, need at least 2 to split")
    order = sorted(slugs)
    random.Random(f"judge {seed}").shuffle(order)
    count = min(max(1, round(len(order) * reward_share)), len(order) - 1)
    return set(order[:count]), set(order[count:])


def fit_judge(examples: Sequence[Example]) -> JudgeTerm:
    """Train one judge for every language that the examples are in."""
    by_language: dict[Language, list[Example]] = defaultdict(list)
    for example in examples:
        by_language[example.sample.card.language].append(example)
    return JudgeTerm({language: _fit_language(language, own) for language, own in sorted(by_language.items())})


def _fit_language(language: Language, examples: Sequence[Example]) -> JudgeModel:
    samples = [example.sample for example in examples]
    labels = np.array([example.label for example in examples])
    weights = np.array([example.weight for example in examples], np.float32)
    slugs = [example.slug for example in examples]
    misplaced = np.array([example.kind in MISPLACED for example in examples])
    positive = labels == 1

    texts = [reply_text(sample) for sample in samples]
    word = word_vectorizer(min_df=2, max_features=_MAX_FEATURES).fit(texts)
    character = character_vectorizer(min_df=3, max_features=_MAX_FEATURES).fit(texts)
    columns = hstack([word.transform(texts), character.transform(texts)]).tocsr()
    choice = fit_calibrated(columns, labels, weights, slugs, positive | ~misplaced, _STRENGTHS)
    wording = Wording(
        _vocabulary(word),
        _vocabulary(character),
        np.concatenate([word.idf_, character.idf_]).astype(np.float32),
        choice.coef,
        choice.intercept,
        choice.platt,
    )

    shared = partial(ngrams, language=language)
    rarity = Rarity.fit(shared(text) for text in texts_of_characters(examples))
    rows = overlap_rows(samples, rarity, shared)
    one_sided = np.arange(rows.shape[1]) < len(OVERLAPS)
    learn = positive | misplaced
    match = fit_head(rows, labels, weights, slugs, learn=learn, one_sided=one_sided, strengths=_MATCH_STRENGTHS)
    joint = fit_head(joint_rows(choice.left_out, match.left_out), labels, weights, slugs, strengths=(100.0,))
    return JudgeModel(language, wording, rarity, match.head, joint.head)


def _vocabulary(vectorizer: object) -> dict[str, int]:
    """The n-grams in the order of their columns."""
    return {str(term): at for at, term in enumerate(vectorizer.get_feature_names_out())}  # type: ignore[attr-defined]

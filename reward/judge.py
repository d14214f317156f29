"""The judge: a second opinion on being in character that is never optimised.

It has the interface of a reward term and is logged beside the reward. It is trained on other characters and sees other
features than :mod:`reward.in_character`: no embedding and no style figures, but which words and character n-grams the
reply is made of, and which it shares with the card and the conversation. Where the reward rises and the judge falls,
the policy has learnt the reward and not the role.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.features import visible_text
from reward.heads.linear import joint_rows
from reward.linear import LinearHead, sigmoid
from reward.matching import EXCESSES, OVERLAPS, Rarity, overlap_rows
from reward.model_files import CONFIG, read_model, write_model
from reward.text import Language, unit_list
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

Floats = NDArray[np.float32]
FORMAT, VERSION = "rlrp-judge", 1
_END = "\n"
"""Set after a reply, so that the n-grams can tell how it ends."""
_NGRAM = {"en": 4, "zh": 2}
_JOINER = {"en": " ", "zh": ""}
_MAX_CHARACTERS = 8000


@dataclass(frozen=True)
class Wording:
    """TF-IDF of words (one and two) and of characters (two to five), and a weight for each.

    Args:
        words, characters: n-gram to column, each from 0.
        rarity: (W + C,), inverse document frequencies, words first.
        coef: (W + C,); intercept: (1,); platt: (2,).
    """

    words: Mapping[str, int]
    characters: Mapping[str, int]
    rarity: Floats
    coef: Floats
    intercept: Floats
    platt: Floats

    @cached_property
    def _vectorizers(self) -> tuple[Any, Any]:
        split = len(self.words)
        word, character = word_vectorizer(self.words), character_vectorizer(self.characters)
        word.idf_, character.idf_ = self.rarity[:split].astype(np.float64), self.rarity[split:].astype(np.float64)
        return word, character

    def log_odds(self, samples: Sequence[Sample]) -> Floats:
        """Calibrated log-odds that the reply is somebody speaking in role, (N,)."""
        texts = [reply_text(sample) for sample in samples]
        word, character = self._vectorizers
        split = len(self.words)
        scores = word.transform(texts) @ self.coef[:split] + character.transform(texts) @ self.coef[split:]
        return np.asarray((scores + self.intercept[0]) * self.platt[0] + self.platt[1], np.float32)


def word_vectorizer(vocabulary: Mapping[str, int] | None = None, **options: Any) -> Any:
    """TF-IDF over words and pairs of words; a Chinese character counts as a word."""
    return _vectorizer(vocabulary, analyzer=_words, **options)


def character_vectorizer(vocabulary: Mapping[str, int] | None = None, **options: Any) -> Any:
    """TF-IDF over runs of two to five characters."""
    return _vectorizer(vocabulary, analyzer="char", ngram_range=(2, 5), **options)


def _vectorizer(vocabulary: Mapping[str, int] | None, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(vocabulary=vocabulary, sublinear_tf=True, dtype=np.float32, **options)


def _words(text: str) -> list[str]:
    units = unit_list(text)
    return units + [f"{first} {second}" for first, second in itertools.pairwise(units)]


def reply_text(sample: Sample) -> str:
    return visible_text(sample.reply) + _END


def ngrams(text: str, language: Language) -> frozenset[str]:
    """The character n-grams of a text that another text can share."""
    return _ngrams(text[:_MAX_CHARACTERS], language)


@lru_cache(maxsize=2048)
def _ngrams(text: str, language: Language) -> frozenset[str]:
    order, plain = _NGRAM[language], _JOINER[language].join(unit_list(text))
    return frozenset(plain[at : at + order] for at in range(len(plain) - order + 1))


@dataclass(frozen=True)
class JudgeModel:
    """The judge of one language: what the reply is made of, what it shares, and both together."""

    language: Language
    wording: Wording
    rarity: Rarity
    match: LinearHead
    joint: LinearHead

    def log_odds(self, samples: Sequence[Sample]) -> tuple[Floats, Floats, Floats]:
        """Log-odds of being in role, and of wording and match alone, each (N,)."""
        wording = self.wording.log_odds(samples)
        rows = overlap_rows(samples, self.rarity, partial(ngrams, language=self.language))
        match = self.match.log_odds(rows)
        return self.joint.log_odds(joint_rows(wording, match)), wording, match


class JudgeTerm:
    """Value: the judge's calibrated probability, in [0, 1], that the reply is the card's character in role."""

    name = "judge"

    def __init__(self, models: Mapping[Language, JudgeModel], config: Mapping[str, Any] | None = None):
        """Use fitted models; ``config`` is what the directory says of them."""
        self.models = dict(models)
        self.config = dict(config or {})

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; abstains where there is no model for the card's language."""
        scores = [TermScore(None, (f"judge: no model for {s.card.language}",)) for s in samples]
        for language, model in self.models.items():
            places = [at for at, sample in enumerate(samples) if sample.card.language == language]
            if not places:
                continue
            joint, wording, match = (sigmoid(found) for found in model.log_odds([samples[at] for at in places]))
            for at, value, words, shares in zip(places, joint, wording, match, strict=True):
                reason = f"judge: {value:.0%} in role (wording {words:.0%}, match {shares:.0%})"
                scores[at] = TermScore(float(value), (reason,), {"wording": float(words), "match": float(shares)})
        return scores

    def save(self, folder: str | Path) -> None:
        """Write the directory: head.safetensors, vocabulary.json and config.json."""
        tensors: dict[str, Floats] = {}
        words: dict[str, Any] = {}
        for language, model in self.models.items():
            wording = model.wording
            for name in ("rarity", "coef", "intercept", "platt"):
                tensors[f"{language}.wording.{name}"] = getattr(wording, name)
            tensors |= model.match.tensors(f"{language}.match") | model.joint.tensors(f"{language}.joint")
            words[language] = {
                "words": list(wording.words),
                "characters": list(wording.characters),
                "documents": model.rarity.documents,
                "counts": dict(model.rarity.counts),
            }
        config = {**self.config, "format": FORMAT, "languages": list(self.models)}
        write_model(folder, tensors, config, words, version=VERSION)

    @classmethod
    def load(cls, folder: str | Path) -> JudgeTerm:
        """Read a directory that :meth:`save` wrote.

        Raises:
            UserError: it is damaged or of another version.
        """
        tensors, config, words = read_model(folder, expected=FORMAT, version=VERSION)
        try:
            models = {language: _restore(language, words[language], tensors) for language in config["languages"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"does not fit its tensors ({error}); train again", file=Path(folder) / CONFIG) from error
        return cls(models, config)


def _restore(language: Language, words: Mapping[str, Any], tensors: Mapping[str, Floats]) -> JudgeModel:
    """One language's model. KeyError, TypeError or ValueError if the vocabulary and the tensors do not fit."""
    columns = [{str(term): at for at, term in enumerate(words[kind])} for kind in ("words", "characters")]
    width = sum(map(len, columns))
    shapes = {"rarity": (width,), "coef": (width,), "intercept": (1,), "platt": (2,)}
    arrays = {name: tensors[f"{language}.wording.{name}"] for name in shapes}
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{language}.wording.{name} has a wrong shape or is not finite")
    return JudgeModel(
        language,
        Wording(columns[0], columns[1], **arrays),
        Rarity(int(words["documents"]), {str(term): int(count) for term, count in words["counts"].items()}),
        LinearHead.from_tensors(tensors, f"{language}.match", len(OVERLAPS) + len(EXCESSES)),
        LinearHead.from_tensors(tensors, f"{language}.joint", 2),
    )

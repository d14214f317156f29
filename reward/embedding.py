"""Text embeddings behind one small interface: a sentence encoder, or character n-grams where none is at hand.

N-grams are the choice for Chinese: no small encoder that knows Chinese installs with the project, and mean-pooled
token vectors of a small language model cost ten times the time (figures in the model card).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlrp.errors import UserError, first_line
from rlrp.lm.load import resolve_model

Floats = NDArray[np.float32]
NGRAMS = "ngrams:"
"""Prefix of the spec of an n-gram encoder, before its dimension; it is fitted with the classifier and stored in it."""
BUCKETS = 1 << 13
MAX_TOKENS = 192
"""Of a text, in the encoder's tokens. A card's first paragraph and a reply of role-play length fit."""

PADDING = 16
"""Texts are padded to a multiple of so many tokens."""


class Encoder(Protocol):
    """Texts to unit vectors.

    ``semantic`` says whether two texts' vectors are near for what they mean, so that their cosine is worth having.
    """

    spec: str
    dimension: int
    semantic: bool

    def encode(self, texts: Sequence[str]) -> Floats:
        """One row a text, each of length 1 (0 for a text without content)."""
        ...


class SentenceEncoder:
    """A sentence-transformers model, or a plain language model whose token vectors are averaged.

    Results are kept for the texts used last: within a group the card and the context are the same.
    """

    def __init__(self, spec: str, *, max_tokens: int = MAX_TOKENS, remember: int = 4096, device: str = "cpu"):
        """Load the model.

        Args:
            spec: ``packaged:NAME``, a directory or a hub id.
            max_tokens: longer texts are cut; one that the model does not allow is lowered to what it does.
            remember: how many texts' vectors are kept.
            device: where the model runs.

        Raises:
            UserError: no such model, or one that cannot be loaded.
        """
        self.spec, self.semantic = spec, True
        self._model = _load(resolve_model(spec), spec, device)
        own = self._model.max_seq_length
        self._model.max_seq_length = min(max_tokens, own) if own else max_tokens
        self.dimension = int(self._model.get_embedding_dimension())
        self._remember = remember
        self._known: OrderedDict[str, Floats] = OrderedDict()

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, one row a text; texts seen lately cost nothing."""
        found: dict[str, Floats] = {}
        for text in dict.fromkeys(texts):
            if text in self._known:
                self._known.move_to_end(text)
                found[text] = self._known[text]
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        for padded, alike in self._by_padding(missing).items():
            # The last bits depend on the padding: one that depends on the text alone, not on its company, gives the
            # same in an actor that was started again and has forgotten all texts.
            vectors = self._model.encode(
                alike,
                batch_size=32,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
                processing_kwargs={"text": {"padding": "max_length", "max_length": padded, "truncation": True}},
            )
            for text, vector in zip(alike, np.nan_to_num(vectors.astype(np.float32)), strict=True):
                found[text] = self._known[text] = vector
        while len(self._known) > self._remember:
            self._known.popitem(last=False)
        return np.stack([found[text] for text in texts]) if texts else np.zeros((0, self.dimension), np.float32)

    def _by_padding(self, texts: Sequence[str]) -> dict[int, list[str]]:
        """The texts by the length that they are padded to, in tokens."""
        most = self._model.max_seq_length or MAX_TOKENS
        alike: dict[int, list[str]] = {}
        if texts:
            lengths = self._model.preprocess(list(texts))["attention_mask"].sum(dim=1).tolist()
            for text, length in zip(texts, lengths, strict=True):
                alike.setdefault(min(most, -(-length // PADDING) * PADDING), []).append(text)
        return alike


@lru_cache(maxsize=2)
def sentence_encoder(spec: str) -> SentenceEncoder:
    """The encoder of a spec, loaded once in a process: training, measuring and scoring share it and what it knows."""
    return SentenceEncoder(spec)


class NgramEncoder:
    """Counts of hashed character n-grams, weighted by rarity and projected on their main directions (LSA)."""

    def __init__(self, rarity: Floats, directions: Floats):
        """Use fitted arrays: rarity (BUCKETS,), directions (dimension, BUCKETS)."""
        self.rarity, self.directions = rarity, directions
        self.dimension, self.semantic = len(directions), False
        self.spec = f"{NGRAMS}{self.dimension}"

    @classmethod
    def fit(cls, texts: Sequence[str], dimension: int, *, seed: int = 0) -> NgramEncoder:
        """Learn rarity and directions from ``texts``; fewer texts than dimensions give fewer dimensions."""
        from sklearn.decomposition import TruncatedSVD

        counts = _hashed(texts)
        seen = np.asarray((counts > 0).sum(axis=0)).ravel()
        rarity = np.where(seen > 0, np.log((1 + len(texts)) / (1 + seen)) + 1, 0.0).astype(np.float32)
        weighted = _unit_rows(counts.multiply(rarity).tocsr())
        size = max(1, min(dimension, len(texts) - 1))
        svd = TruncatedSVD(size, random_state=seed).fit(weighted)
        return cls(rarity, svd.components_.astype(np.float32))

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, one row a text."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        weighted = _unit_rows(_hashed(texts).multiply(self.rarity).tocsr())
        vectors = np.asarray(weighted @ self.directions.T, dtype=np.float32)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6), np.float32)


def _hashed(texts: Sequence[str]) -> Any:
    """Sublinear counts of character 1- to 3-grams in BUCKETS columns, sparse."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hasher = HashingVectorizer(
        analyzer="char", ngram_range=(1, 3), n_features=BUCKETS, norm=None, alternate_sign=False, dtype=np.float32
    )
    counts = hasher.transform(texts)
    counts.data = np.log1p(counts.data)
    return counts


def _unit_rows(matrix: Any) -> Any:
    from sklearn.preprocessing import normalize

    return normalize(matrix, copy=False)


def ngram_dimension(spec: str) -> int | None:
    """The dimension in ``ngrams:N``; None for the spec of a model.

    Raises:
        UserError: N is not a number from 1 to 1024.
    """
    if not spec.startswith(NGRAMS):
        return None
    size = spec.removeprefix(NGRAMS)
    if not size.isdecimal() or not 1 <= int(size) <= 1024:
        raise UserError(f"got {spec!r}, expected {NGRAMS}N with N from 1 to 1024, e.g. {NGRAMS}128", place="encoder")
    return int(size)


def _load(path: str, spec: str, device: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        if Path(path).is_dir() and not (Path(path) / "modules.json").exists():
            transformer = Transformer(path)
            if transformer.tokenizer.pad_token is None:
                transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
            pooling = Pooling(transformer.get_embedding_dimension(), "mean")
            return SentenceTransformer(modules=[transformer, pooling], device=device)
        return SentenceTransformer(path, device=device)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the encoder {spec}: {first_line(error, 200)}", place="encoder") from error

"""Text embeddings behind one small interface: a sentence encoder, or character n-grams where none is at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlrp.errors import UserError
from rlrp.lm.load import resolve_model

MAX_TOKENS = 192
"""Of a text, in the encoder's tokens. A card's first paragraph and a reply of role-play length fit."""


class Encoder(Protocol):
    """Texts to unit vectors."""

    spec: str
    dimension: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
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
        self.spec = spec
        self._model = _load(resolve_model(spec), spec, device)
        own = self._model.max_seq_length
        self._model.max_seq_length = min(max_tokens, own) if own else max_tokens
        self.dimension = int(self._model.get_embedding_dimension())
        self._remember = remember
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, one row a text; texts seen lately cost nothing."""
        found: dict[str, NDArray[np.float32]] = {}
        for text in dict.fromkeys(texts):
            if text in self._known:
                self._known.move_to_end(text)
                found[text] = self._known[text]
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            vectors = self._model.encode(
                missing, batch_size=32, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
            )
            for text, vector in zip(missing, np.nan_to_num(vectors.astype(np.float32)), strict=True):
                found[text] = self._known[text] = vector
            while len(self._known) > self._remember:
                self._known.popitem(last=False)
        return np.stack([found[text] for text in texts]) if texts else np.zeros((0, self.dimension), np.float32)


def _load(path: str, spec: str, device: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
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
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"cannot load the encoder {spec}: {reason[:200]}", place="encoder") from error

"""A small language model reads the reply in its place: the mean of its hidden states over the reply's tokens.

The lower half of the layers is enough (and half the price): what the reply is like is there, and what comes next,
which the upper half works out, is not asked for. Replies to one prompt are read with the prompt computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from reward.script import script
from reward.spans import visible
from rlrp.dialogue.types import Sample
from rlrp.lm.load import load_model
from rlrp.lm.scoring import by_prompt, completion_hidden, micro_batches
from rlrp.lm.self_check import use_shared_prefix
from rlrp.lm.shared_prefix import keep_lower_layers

Floats = NDArray[np.float32]
_MESSAGES = 3
_CHARACTERS = {"zh": (160, 200), "en": (500, 500)}
"""Of the card's description (its beginning) and of each message (its end) that are read."""
_PROMPT_TOKENS, _REPLY_TOKENS = 900, 256
_TOKEN_BUDGET = 2048


class Reader:
    """Reads replies; ``depth`` is the share of the model's layers that are run."""

    def __init__(self, spec: str, *, depth: float = 0.5, accept_terms: bool = False):
        """Load the model.

        Raises:
            UserError: no such model, or terms that were not accepted.
        """
        self.spec = spec
        lm = load_model(spec, accept_terms=accept_terms)
        self._model, self._tokenizer = lm.model, lm.tokenizer
        keep_lower_layers(self._model, depth)
        use_shared_prefix(self._model)
        self.dimension = int(self._model.get_input_embeddings().embedding_dim)
        self._newline = tuple(self._tokenizer("\n", add_special_tokens=False)["input_ids"][-1:])

    def read(self, samples: Sequence[Sample]) -> Floats:
        """(N, hidden size), a row a sample; zeros for an empty reply."""
        rows = np.zeros((len(samples), self.dimension), np.float32)
        replies = [self._reply_ids(sample) for sample in samples]
        read = [at for at, reply in enumerate(replies) if reply]
        # The last token of a completion is not read, so each has one more.
        groups, places = by_prompt(
            [self._prompt_ids(samples[at]) for at in read], [(*replies[at], *self._newline) for at in read]
        )
        with torch.no_grad():
            for part, where in micro_batches(groups, _TOKEN_BUDGET):
                hidden = completion_hidden(self._model, part)
                sizes = [len(completion) for group in part for completion in group.completions]
                for (group, completion), own in zip(where, hidden.split(sizes), strict=True):
                    rows[read[places[group][completion]]] = own[1:].mean(dim=0).float().numpy()
        return rows

    def _reply_ids(self, sample: Sample) -> tuple[int, ...]:
        text = visible(sample.reply)
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"][:_REPLY_TOKENS]) if text else ()

    def _prompt_ids(self, sample: Sample) -> tuple[int, ...]:
        description, message = _CHARACTERS[sample.card.language]
        text = script(sample, description=description, message=message, messages=_MESSAGES)
        return tuple(self._tokenizer(text)["input_ids"][-_PROMPT_TOKENS:])


@lru_cache(maxsize=2)
def shared_reader(spec: str, accept_terms: bool = False) -> Reader:
    """The reader of a spec, loaded once in a process."""
    return Reader(spec, accept_terms=accept_terms)

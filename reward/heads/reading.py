"""What a trained head reads of a sample: the card's words, the last messages, the reply, cut to a number of tokens."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.features import card_summary, visible_text
from reward.script import COLON, USER
from rlrp.dialogue.types import Sample

_REPLY_SHARE = 3
_EMPTY = "…"
_CHARACTERS = 8000
"""Of a card, and of a message, that are looked at."""


class Cutter:
    """Texts of a sample, with at most ``max_length`` tokens together by the tokenizer's count.

    A third is the reply's, so that replies to one prompt read the same prompt. Of the rest the card gets what the
    messages leave; messages that fill it alone lose their beginning.
    """

    def __init__(self, tokenizer: Any, max_length: int, messages: int):
        """Use a fast tokenizer, which knows where in the text its tokens lie."""
        self.tokenizer, self.messages = tokenizer, messages
        self.reply_tokens = max(1, max_length // _REPLY_SHARE)
        self.prompt_tokens = max(1, max_length - self.reply_tokens)
        self._of_card = lru_cache(maxsize=256)(self._places)

    def prompt(self, sample: Sample) -> str:
        """Card and messages, ending with the character's name where its reply begins."""
        card, colon = sample.card, COLON[sample.card.language]
        user, name = USER[card.language], card.display_name
        last = [m for m in sample.messages if m.role != "system"][-self.messages :]
        said = [f"{user if m.role == 'user' else name}{colon}{m.content[-_CHARACTERS:]}" for m in last]
        talk = "\n".join([*said, f"{name}{colon.strip()}"])
        places = self._places(talk)
        if len(places) > self.prompt_tokens:
            return talk[places[-self.prompt_tokens, 0] :]
        summary = card_summary(card)[:_CHARACTERS]
        about = _beginning(summary, self._of_card(summary), self.prompt_tokens - len(places) - 1)
        return f"{about}\n{talk}" if about else talk

    def reply(self, sample: Sample) -> str:
        """What the reader sees of the reply, its beginning if it is long."""
        text = visible_text(sample.reply) or _EMPTY
        return _beginning(text, self._places(text), self.reply_tokens)

    def _places(self, text: str) -> NDArray[np.int32]:
        """(tokens, 2): where in the text each token begins and ends."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return np.array(found, np.int32).reshape(-1, 2)


def _beginning(text: str, places: NDArray[np.int32], tokens: int) -> str:
    """The text's first ``tokens`` tokens."""
    return text if len(places) <= tokens else text[: places[tokens - 1, 1]] if tokens > 0 else ""

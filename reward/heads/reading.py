"""What a trained head reads of a sample: the card's words, the last messages, the reply, cut to a number of tokens."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from reward.features import card_summary, visible_text
from rlrp.dialogue.types import Sample

_USER = {"zh": "用户", "en": "User"}
_COLON = {"zh": "：", "en": ": "}
_REPLY_SHARE = 3
_EMPTY = "…"


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
        self._places = lru_cache(maxsize=4096)(self._offsets)

    def prompt(self, sample: Sample) -> str:
        """Card and messages, ending with the character's name where its reply begins."""
        card, colon = sample.card, _COLON[sample.card.language]
        user, name = _USER[card.language], card.display_name
        last = [m for m in sample.messages if m.role != "system"][-self.messages :]
        said = [f"{user if m.role == 'user' else name}{colon}{m.content}" for m in last]
        talk = "\n".join([*said, f"{name}{colon.strip()}"])
        talk = self.cut(talk, self.prompt_tokens, end=True)
        left = self.prompt_tokens - len(self._places(talk)) - 1
        about = self.cut(card_summary(card), left)
        return f"{about}\n{talk}" if about else talk

    def reply(self, sample: Sample) -> str:
        """What the reader sees of the reply, its beginning if it is long."""
        return self.cut(visible_text(sample.reply) or _EMPTY, self.reply_tokens)

    def cut(self, text: str, tokens: int, *, end: bool = False) -> str:
        """The text's first (or last) ``tokens`` tokens."""
        places = self._places(text)
        if len(places) <= max(tokens, 0):
            return text
        if tokens <= 0:
            return ""
        return text[places[-tokens][0] :] if end else text[: places[tokens - 1][1]]

    def _offsets(self, text: str) -> tuple[tuple[int, int], ...]:
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return tuple((int(start), int(stop)) for start, stop in found)

"""From messages to token ids, once: the same pieces are tokenised for SFT, for sampling and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from rlrp.dialogue.types import Message, Role
from rlrp.errors import UserError
from rlrp.files import read_text

TEMPLATES = Path(__file__).parent / "templates"

_SAID, _ASKED = "what was said", "what was asked"
"""Stand for a reply and for a user's line where only what the template puts around them is wanted."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of rendered messages; ``reply_mask`` is 1 on the character's words and on the token that ends them."""

    ids: tuple[int, ...]
    reply_mask: tuple[int, ...]


def set_chat_template(tokenizer: Any, template: str | None, *, model: str) -> None:
    """Give the tokenizer a template: a built-in name or a file; None keeps the model's own.

    Raises:
        UserError: the model has none and none was named, or the file is missing.
    """
    if template is not None:
        built_in = TEMPLATES / f"{template}.jinja"
        tokenizer.chat_template = read_text(built_in if built_in.exists() else Path(template))
    if not tokenizer.chat_template:
        names = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
        raise UserError(
            f"{model} has no chat template; set `chat_template` to a Jinja file or a built-in one ({names})",
            place="model",
        )


class ChatFormat:
    """How a tokenizer's chat template turns messages into token ids, and which token ends a turn."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        probe = [Message("user", "ping")]
        opening = self._render(probe, generation=True)
        closed = self._render([*probe, Message("assistant", "pong")], generation=False)
        tail = closed.removeprefix(opening + "pong")
        if len(tail) == len(closed):
            raise UserError("the chat template changes what the assistant said; use one that keeps it", place="model")
        special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
        tail_ids = self._tokens(tail)
        ends = [token for token in tail_ids if token in special]
        if not ends:
            raise UserError("the chat template does not end a turn with a special token", place="model")
        self.turn_end_id: int = ends[0]
        eos = tokenizer.eos_token_id
        self.stop_ids: frozenset[int] = frozenset({self.turn_end_id} | ({eos} if eos is not None else set()))
        # Some templates mark turns with tokens that their tokenizer does not call special.
        written = f"{tokenizer.chat_template}{closed}"
        added = getattr(tokenizer, "added_tokens_decoder", {})
        plain = {t for t, e in added.items() if not (e.special or (e.content.strip() and e.content in written))}
        self._control = self.stop_ids | (special - plain)
        self._around: dict[tuple[Role, ...], tuple[str, str]] = {}

    def encode_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the messages and of the opening of the assistant's next turn."""
        return self._encode(messages, generation=True).ids

    def encode_dialogue(self, messages: Sequence[Message]) -> Encoded:
        """Ids of a whole dialogue, with the assistant's turns marked."""
        return self._encode(messages, generation=False)

    def encode_turn(self, roles: Sequence[Role], text: str) -> tuple[int, ...]:
        """Ids that follow the end token of a reply when the user answers: the rest of the reply's turn, the user's, and
        the opening of the assistant's next.

        Nobody vouches for the text: what spells a control token is encoded as the letters that it is. The template
        never sees what was said, only ``roles``: those of the conversation so far, the last of them the reply's.
        """
        before, after = self._around_user(tuple(roles))
        opening, closing = self._tokens(before), self._tokens(after)
        together = self._tokens(before + text.strip() + after)
        if [t for t in together if t in self._control] == [t for t in opening + closing if t in self._control]:
            return tuple(together)
        return (*opening, *self._letters(text.strip()), *closing)

    def encode_said(self, text: str) -> tuple[int, ...]:
        """Ids of what somebody not trusted said in the assistant's place, with the token that ends it."""
        return (*self._letters(text.strip()), self.turn_end_id)

    def decode_reply(self, ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens."""
        # A stop token need not be one that the tokenizer calls special.
        kept = [token for token in ids if token not in self.stop_ids]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()

    def _encode(self, messages: Sequence[Message], *, generation: bool) -> Encoded:
        ids: list[int] = []
        mask: list[int] = []
        done = ""
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opening = self._render(messages[:index], generation=True) if index else self._opening_of_nothing()
            reply = message.content.strip()
            if not opening.startswith(done):
                raise UserError("the chat template rewrites earlier turns; use one that only appends", place="model")
            before, said = self._tokens(opening[len(done) :]), [*self._tokens(reply), self.turn_end_id]
            ids += before + said
            mask += [0] * len(before) + [1] * len(said)
            done = opening + reply + self.tokenizer.decode([self.turn_end_id])
        rest = self._render(messages, generation=generation)
        if not rest.startswith(done):
            raise UserError("the chat template rewrites earlier turns; use one that only appends", place="model")
        tail = self._tokens(rest[len(done) :])
        return Encoded(tuple(ids + tail), tuple(mask + [0] * len(tail)))

    def _around_user(self, roles: tuple[Role, ...]) -> tuple[str, str]:
        """What the template puts between a reply's end token and the user's text, and after that text."""
        if roles not in self._around:
            talk = [Message(role, _SAID if role == "assistant" else _ASKED) for role in roles]
            done = self._render(talk[:-1], generation=True) + _SAID + self.tokenizer.decode([self.turn_end_id])
            whole = self._render([*talk, Message("user", _ASKED)], generation=True)
            parts = whole.removeprefix(done).split(_ASKED)
            if not whole.startswith(done) or len(parts) != 2:
                raise UserError(
                    "the chat template rewrites earlier turns or the user's text; use one that only appends",
                    place="model",
                )
            self._around[roles] = parts[0], parts[1]
        return self._around[roles]

    def _letters(self, text: str) -> list[int]:
        """Ids of the text with no control token among them: where one is spelt, its halves are encoded apart."""
        ids = self._tokens(text)
        if not self._control.intersection(ids):
            return ids
        middle = len(text) // 2
        return self._letters(text[:middle]) + self._letters(text[middle:]) if middle else []

    def _opening_of_nothing(self) -> str:
        raise UserError("a dialogue must not begin with the assistant; put a user or system message first")

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _render(self, messages: Sequence[Message], *, generation: bool) -> str:
        chat = [Message(m.role, m.content.strip()).as_dict() for m in messages]
        try:
            return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation))
        except TemplateError as error:
            raise UserError(
                f"the chat template refuses these messages ({error}); set `chat_template` to one that takes them",
                place="model",
            ) from error

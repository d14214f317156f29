"""Prompts: a card, the messages so far and their token ids, made once and carried along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlrp.cards import CharacterCard, render_system_prompt, render_text
from rlrp.dialogue.types import Message, Sample
from rlrp.lm.chat import ChatFormat


@dataclass(frozen=True)
class Prompt:
    """What a policy answers: token ids for the model; card and messages (without the system prompt) for rewards."""

    id: str
    card_id: str
    card: CharacterCard
    messages: tuple[Message, ...]
    ids: tuple[int, ...]

    def sample(self, reply: str, *, finished: bool = True) -> Sample:
        return Sample(self.card, self.messages, reply, finished)


def role_play_messages(card: CharacterCard, messages: Sequence[Message]) -> list[Message]:
    """The messages with the card as system prompt, and the card's instructions after the history if it has any."""
    system = render_system_prompt(card, history=[message.content for message in messages])
    rendered = [Message("system", system), *messages]
    if card.post_history_instructions:
        rendered.append(Message("system", render_text(card, card.post_history_instructions)))
    return rendered


def make_prompt(chat: ChatFormat, id: str, card_id: str, card: CharacterCard, messages: Sequence[Message]) -> Prompt:
    """Render and tokenise once."""
    return Prompt(id, card_id, card, tuple(messages), chat.encode_prompt(role_play_messages(card, messages)))

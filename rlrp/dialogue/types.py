"""What was said, by whom, and to which card it belongs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrp.cards import CharacterCard

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn; ``assistant`` is the character."""

    role: Role
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Dialogue:
    """A card and its messages. ``card`` is None for general (non role-play) data."""

    id: str
    messages: tuple[Message, ...]
    card: CharacterCard | None = None


@dataclass(frozen=True)
class Sample:
    """What a reward term sees: the card, the messages up to the reply (the last is the user's), and the reply.

    ``finished`` is False where sampling broke the reply off at its longest length.
    """

    card: CharacterCard
    messages: tuple[Message, ...]
    reply: str
    finished: bool = True

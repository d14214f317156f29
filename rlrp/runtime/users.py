"""Simulated users: what is said to the policy after its first reply, from a script or by another language model.

A conversation's persona and its drawn lines are functions of the run's seed and the prompt, not of the completion: the
completions of a group meet the same user, so that their rewards differ by what the policy said.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlrp.cards import Language, render_text
from rlrp.dialogue import Message, Role, UserPrompt
from rlrp.lm.chat import ChatFormat
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings


class Samples(Protocol):
    """Whatever samples: an engine, or a sampler of ours without one."""

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]: ...


class Talk:
    """A conversation as its user knows it.

    Args:
        seed: the completion's.
    """

    def __init__(self, prompt: Prompt, seed: int):
        self.prompt, self.seed = prompt, seed
        self.said: list[Message] = list(prompt.messages)
        """Everything so far, the prompt's messages first."""
        self.memory: tuple[int, ...] = ()
        """A user model's own tokens of it, and of how many messages they are."""
        self.remembered = 0

    @property
    def first(self) -> str:
        """What the prompt's user said last."""
        return next((m.content for m in reversed(self.prompt.messages) if m.role == "user"), "")

    @property
    def lines(self) -> int:
        """How many lines the simulated user has said."""
        return (len(self.said) - len(self.prompt.messages)) // 2


class User(Protocol):
    """A simulated user."""

    def answer(self, talks: Sequence[Talk]) -> list[str]:
        """What the user says next in each conversation, whose last message is a reply; "" ends it."""
        ...


@dataclass(frozen=True)
class Script:
    """What users say: lines and conversations, and the seed by which they are drawn."""

    entries: tuple[UserPrompt, ...]
    seed: int = 0


class ScriptedUser:
    """Says what a script holds.

    Where the prompt's line begins a conversation of the script, that conversation goes on, and ends with the script's.
    Elsewhere entries are drawn, none twice in a conversation, each said whole before the next.
    """

    def __init__(self, script: Script):
        self.script = script
        self.conversations = {entry.text: entry.then for entry in script.entries if entry.then}

    def answer(self, talks: Sequence[Talk]) -> list[str]:
        return [self._line(talk) for talk in talks]

    def _line(self, talk: Talk) -> str:
        lines = self.conversations.get(talk.first) or self._drawn(talk.prompt.id, talk.first, talk.lines + 1)
        return lines[talk.lines] if talk.lines < len(lines) else ""

    def _drawn(self, prompt: str, first: str, count: int) -> tuple[str, ...]:
        """The lines of the entries in the prompt's own order, at least ``count`` of them if there are as many."""
        rng = random.Random(f"{self.script.seed}/{prompt}")
        left = list(range(len(self.script.entries)))
        lines: list[str] = []
        while left and len(lines) < count:
            at = rng.randrange(len(left))
            left[at], left[-1] = left[-1], left[at]
            entry = self.script.entries[left.pop()]
            if entry.text != first:
                lines += entry.text, *entry.then
        return tuple(lines)


@dataclass(frozen=True)
class UserModel:
    """A language model in the user's part.

    Args:
        personas: who it may be, by the card's language: texts with the macros of cards, one drawn for each prompt.
        max_new_tokens: of one line.
    """

    model: str
    personas: Mapping[Language, tuple[str, ...]]
    chat_template: str | None = None
    temperature: float = 0.9
    max_new_tokens: int = 48
    seed: int = 0


_OPENINGS: dict[Language, str] = {
    "en": "(The chat begins. Write your first message.)",
    "zh": "（聊天开始了，请发出第一条消息。）",
}
"""Comes before the user's first line: templates want somebody to speak before the assistant does."""
_SCENES: dict[Language, str] = {"en": "The scene: ", "zh": "场景："}


class ModelUser:
    """Another language model in the user's part: a persona as system prompt, the conversation with roles swapped.

    What it said stays the tokens that it sampled; what the policy said reaches it as text, in letters alone.
    """

    def __init__(self, settings: UserModel, engine: Samples, chat: ChatFormat, context: int):
        self.settings, self.engine, self.chat, self.context = settings, engine, chat, context
        self.sampling = SamplingSettings(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)

    def answer(self, talks: Sequence[Talk]) -> list[str]:
        for talk in talks:
            self._remember(talk)
        able = [talk for talk in talks if len(talk.memory) + self.sampling.max_new_tokens <= self.context]
        requests = [SampleRequest(talk.memory, (derived_seed(talk.seed, "user", talk.lines),)) for talk in able]
        drawn = self.engine.sample(requests, self.sampling) if able else []
        lines = {}
        for talk, (line,) in zip(able, drawn, strict=True):
            ended = line.ids[-1] in self.chat.stop_ids
            talk.memory += line.ids if ended else (*line.ids, self.chat.turn_end_id)
            talk.remembered += 1
            lines[id(talk)] = line.text
        return [lines.get(id(talk), "") for talk in talks]

    def _remember(self, talk: Talk) -> None:
        """Bring the model's tokens up to the last reply, after which it is to speak."""
        language = talk.prompt.card.language
        if not talk.memory:
            opening = [Message("system", self._instructions(talk.prompt)), Message("user", _OPENINGS[language])]
            talk.memory = self.chat.encode_prompt(opening)
        for at in range(talk.remembered, len(talk.said)):
            message = talk.said[at]
            if message.role == "user":
                talk.memory += self.chat.encode_said(message.content)
            else:
                swapped: list[Role] = ["assistant" if m.role == "user" else "user" for m in talk.said[:at]]
                talk.memory += self.chat.encode_turn(["system", "user", *swapped], message.content)
        talk.remembered = len(talk.said)

    def _instructions(self, prompt: Prompt) -> str:
        """The persona drawn for the prompt, and the card's scene; nothing else that the card says of its character."""
        card = prompt.card
        persona = random.Random(f"{self.settings.seed}/{prompt.id}").choice(self.settings.personas[card.language])
        scene = render_text(card, card.scenario).strip()
        return render_text(card, persona) + (f"\n\n{_SCENES[card.language]}{scene}" if scene else "")


def derived_seed(seed: int, who: str, turn: int) -> int:
    """The seed of what somebody says in a later turn of the completion that began with ``seed``."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{who}/{turn}".encode(), digest_size=8).digest())

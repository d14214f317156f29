"""What a character card and a lorebook hold, whichever version and container they came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Spec = Literal["v1", "v2", "v3"]
Language = Literal["zh", "en"]
Position = Literal["before_char", "after_char"]
SecondaryLogic = Literal["and_any", "not_all", "not_any", "and_all"]

_CJK_SHARE_OF_CHINESE = 0.2
"""A Chinese text with English names in it stays far above this; an English one quoting Chinese stays below."""


@dataclass(frozen=True)
class LorebookEntry:
    """One entry of a lorebook, as read: ``content`` still begins with its ``@@decorators``.

    Args:
        insertion_order: lower numbers stand higher up in the prompt.
        priority: entries of lower priority are dropped first when the token budget is spent;
            None falls back on ``insertion_order``.
        selective: the secondary keys must agree too, in the way ``secondary_logic`` says.
        scan_depth: in messages, in place of the book's.
        extras: every other field as it was read; written back, never in a prompt.
    """

    keys: tuple[str, ...] = ()
    content: str = ""
    enabled: bool = True
    insertion_order: float = 0
    case_sensitive: bool = False
    match_whole_words: bool = False
    use_regex: bool = False
    constant: bool = False
    priority: float | None = None
    selective: bool = False
    secondary_keys: tuple[str, ...] = ()
    secondary_logic: SecondaryLogic = "and_any"
    position: Position = "after_char"
    scan_depth: int | None = None
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Lorebook:
    """Entries and how to search for them.

    Args:
        scan_depth: how many of the latest messages are searched for keys; None means all.
        token_budget: in tokens, over all active entries; None means no limit.
        recursive_scanning: an active entry's content may activate others.
        extras: every other field as it was read; written back, never in a prompt.
    """

    entries: tuple[LorebookEntry, ...] = ()
    name: str = ""
    description: str = ""
    scan_depth: int | None = None
    token_budget: int | None = None
    recursive_scanning: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class CharacterCard:
    """A character, as every part of the project sees it.

    Args:
        greeting: the character's first message (``first_mes``).
        examples: the raw ``mes_example`` text.
        self_reference: the words the character may use for "I".
        illeist: whether the character speaks of itself by name; None means judge by the examples.
        extensions: ``data.extensions`` as read; aliases, self_reference, illeist and gender come from its
            ``rlrp`` object and win over it when the card is written.
        extras: the other fields of ``data``; top_level: those beside ``data``. Both are written back
            unchanged and never enter a prompt (creator_notes, creator and character_version are here).
        spec: the version the card was read as.
    """

    name: str
    aliases: tuple[str, ...] = ()
    nickname: str = ""
    description: str = ""
    personality: str = ""
    scenario: str = ""
    greeting: str = ""
    alternate_greetings: tuple[str, ...] = ()
    examples: str = ""
    system_prompt: str = ""
    post_history_instructions: str = ""
    lorebook: Lorebook | None = None
    tags: tuple[str, ...] = ()
    self_reference: tuple[str, ...] = ()
    illeist: bool | None = None
    gender: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict, hash=False)
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)
    top_level: Mapping[str, Any] = field(default_factory=dict, hash=False)
    spec: Spec = "v2"

    @property
    def display_name(self) -> str:
        """What ``{{char}}`` stands for: the nickname where there is one, else the name."""
        return self.nickname or self.name

    @cached_property
    def language(self) -> Language:
        """The language the card is written in; of a card that says nothing, the language of its name."""
        text = "".join((self.description, self.personality, self.scenario, self.greeting, self.examples))
        return detect_language(text if text.strip() else self.name)


def detect_language(text: str) -> Language:
    """``"zh"`` if at least a fifth of the letters of ``text`` are Chinese characters, else ``"en"``."""
    letters = sum(character.isalpha() for character in text)
    chinese = sum("\u4e00" <= character <= "\u9fff" or "\u3400" <= character <= "\u4dbf" for character in text)
    return "zh" if letters and chinese / letters >= _CJK_SHARE_OF_CHINESE else "en"

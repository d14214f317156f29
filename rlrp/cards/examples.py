"""The example dialogues of a card (``mes_example``), as blocks of lines with speakers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

Speaker = Literal["user", "char"]
ExampleBlock = list[tuple[Speaker, str]]

_START = re.compile(r"<START>", re.IGNORECASE)
_USER_LABELS = ("{{user}}", "<user>")
_CHAR_LABELS = ("{{char}}", "<char>", "<bot>")


def parse_examples(text: str, *, char: Iterable[str] = (), user: Iterable[str] = ()) -> list[ExampleBlock]:
    """Split example dialogues at ``<START>`` and then at lines that begin with a speaker and a colon.

    Text before a block's first label is the character's: cards without labels are samples of its voice.

    Args:
        text: ``mes_example``, with its macros or with names in their place. Both colons (``:``, ``：``) count.
        char: the names the character's lines may carry; user: likewise.

    Returns:
        non-empty blocks of (speaker, text); texts are stripped and never empty.
    """
    speakers: dict[str, Speaker] = {}
    for name in (*_CHAR_LABELS, *_names(char)):
        speakers[name.strip().casefold()] = "char"
    for name in (*_USER_LABELS, *_names(user)):
        speakers.setdefault(name.strip().casefold(), "user")
    labels = "|".join(re.escape(name) for name in sorted(speakers, key=len, reverse=True) if name)
    label = re.compile(rf"[ \t]*({labels})[ \t]*[:：]", re.IGNORECASE)
    blocks = (_parse_block(piece, label, speakers) for piece in _START.split(text))
    return [block for block in blocks if block]


def _names(value: Iterable[str]) -> Iterable[str]:
    return (value,) if isinstance(value, str) else value


def _parse_block(text: str, label: re.Pattern[str], speakers: dict[str, Speaker]) -> ExampleBlock:
    turns: list[tuple[Speaker, list[str]]] = [("char", [])]
    for line in text.replace("\r\n", "\n").split("\n"):
        match = label.match(line)
        if match is None:
            turns[-1][1].append(line)
        else:
            turns.append((speakers.get(match[1].casefold(), "char"), [line[match.end() :]]))
    joined = ((speaker, "\n".join(lines).strip()) for speaker, lines in turns)
    return [(speaker, said) for speaker, said in joined if said]


def format_examples(blocks: Sequence[ExampleBlock], *, char: str, user: str, colon: str = ": ") -> str:
    """The blocks as text: a line a turn, an empty line between blocks."""
    names = {"char": char, "user": user}
    return "\n\n".join("\n".join(f"{names[speaker]}{colon}{said}" for speaker, said in block) for block in blocks)

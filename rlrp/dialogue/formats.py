"""One record of a file as a dialogue: `messages` (ours, OpenAI), `conversations` (ShareGPT), a SillyTavern chat.

Left out: swipes of SillyTavern chats (they are preferences, not dialogues) and chats of several characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlrp.cards import CharacterCard, parse_card
from rlrp.dialogue.items import card_of_slug, checked_text, shortened
from rlrp.dialogue.types import Dialogue, Message, Role
from rlrp.errors import UserError

Record = tuple[int, dict[str, Any]]
"""The number of a line (from 1) and the object on it."""

_OPENAI_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_CHAT_HEADER = ("chat_metadata", "character_name", "user_name")


def is_chat_log(record: Mapping[str, Any]) -> bool:
    """Whether the first object of a file is that of a SillyTavern chat: its header, or a message."""
    if "messages" in record or "conversations" in record:
        return False
    return "mes" in record or any(key in record for key in _CHAT_HEADER)


def dialogue_of(record: Record, cards: Mapping[str, CharacterCard] | None, file: Path) -> Dialogue:
    """A line with ``messages`` (ours, OpenAI's, TRL's) or ``conversations`` (ShareGPT).

    ``card`` may be a slug of ``cards`` or a card object; without it the dialogue has none. Without an ``id``, the
    file's stem and the line number.
    """
    number, line = record
    if "messages" in line:
        messages = _messages(line["messages"], ("messages", "role", "content"), _OPENAI_ROLES, file, number)
    elif "conversations" in line:
        messages = _messages(line["conversations"], ("conversations", "from", "value"), _SHAREGPT_ROLES, file, number)
        messages = _with_system(messages, line.get("system"), file, number)
    else:
        keys = shortened(sorted(line)) or "nothing"
        raise UserError(f"expected messages or conversations, got {keys}", file=file, place=f"line {number}")
    _check_turns(messages, file, number)
    identifier = line.get("id")
    if identifier is None or identifier == "":
        identifier = f"{file.stem}-{number:05d}"
    return Dialogue(str(identifier), tuple(messages), _card(line.get("card"), cards, file, number))


def dialogue_of_chat(records: Sequence[Record], cards: Mapping[str, CharacterCard] | None, file: Path) -> Dialogue:
    """The lines of one SillyTavern chat, with or without a header; the dialogue's id is the file's stem.

    Hidden messages and messages without text are skipped; a narrator's count as the user's, who wrote them;
    neighbours of the same speaker are joined with an empty line between them. The card is the one whose name,
    nickname, alias or slug is the character's; without ``cards`` there is none.
    """
    messages: list[Message] = []
    names: dict[str, int] = {}
    for number, line in records:
        if "mes" not in line and any(key in line for key in _CHAT_HEADER):
            continue
        text = _chat_text(line, file, number)
        if line.get("is_system") is True or not text.strip():
            continue
        extra = line.get("extra")
        narrated = isinstance(extra, dict) and extra.get("type") == "narrator"
        role: Role = "user" if line.get("is_user") is True or narrated else "assistant"
        if role == "assistant" and isinstance(name := line.get("name"), str):
            names.setdefault(name.strip(), number)
        if messages and messages[-1].role == role:
            text = f"{messages.pop().content}\n\n{text}"
        messages.append(Message(role, text))
    last = records[-1][0] if records else 1
    _require_reply(messages, file, last)
    return Dialogue(file.stem, tuple(messages), None if cards is None else _card_by_name(names, cards, file))


def _messages(
    value: object, keys: tuple[str, str, str], roles: Mapping[str, Role], file: Path, number: int
) -> list[Message]:
    field, role_key, text_key = keys
    if not isinstance(value, list):
        raise UserError(f"got {type(value).__name__}, expected a list", file=file, place=f"line {number}, {field}")
    messages = []
    for index, item in enumerate(value):
        place = f"line {number}, {field}[{index}]"
        if not isinstance(item, dict):
            raise UserError(f"got {type(item).__name__}, expected an object", file=file, place=place)
        role = item.get(role_key)
        if not isinstance(role, str) or role not in roles:
            expected = ", ".join(roles)
            raise UserError(f"got {role!r}, expected one of {expected}", file=file, place=f"{place}.{role_key}")
        text = checked_text(item.get(text_key), file, f"{place}.{text_key}")
        messages.append(Message(roles[role], text))
    return messages


def _with_system(messages: list[Message], system: object, file: Path, number: int) -> list[Message]:
    """ShareGPT's ``system`` beside the turns, in front of them."""
    if system is None or system == "":
        return messages
    place = f"line {number}, system"
    text = checked_text(system, file, place, may_be_empty=True)
    if messages and messages[0].role == "system":
        raise UserError("a second system text: the first turn is one too; keep one", file=file, place=place)
    return [Message("system", text), *messages] if text.strip() else messages


def _check_turns(messages: Sequence[Message], file: Path, number: int) -> None:
    """At most one system message, in front; then user and assistant in turn."""
    for index, message in enumerate(messages):
        place = f"line {number}, message {index + 1}"
        if message.role == "system" and index:
            raise UserError("a system message must come first", file=file, place=place)
        if index and message.role == messages[index - 1].role:
            raise UserError(f"two {message.role} messages in a row; join them", file=file, place=place)
    _require_reply(messages, file, number)


def _require_reply(messages: Sequence[Message], file: Path, number: int) -> None:
    if not any(message.role == "assistant" for message in messages):
        raise UserError("no assistant turn: nothing to learn from", file=file, place=f"line {number}")


def _card(value: object, cards: Mapping[str, CharacterCard] | None, file: Path, number: int) -> CharacterCard | None:
    if value is None:
        return None
    if isinstance(value, str):
        return card_of_slug(value, cards, file, number)
    try:
        return parse_card(value)
    except UserError as error:
        place = f"line {number}, card" + (f".{error.place}" if error.place else "")
        raise UserError(error.message, file=file, place=place) from error


def _chat_text(line: Mapping[str, Any], file: Path, number: int) -> str:
    text = line.get("mes")
    if isinstance(text, dict):  # Chub's exports wrap it
        text = text.get("message")
    if "mes" not in line:
        raise UserError("missing; not a chat's message", file=file, place=f"line {number}, mes")
    return checked_text(text, file, f"line {number}, mes", may_be_empty=True)


def _card_by_name(names: Mapping[str, int], cards: Mapping[str, CharacterCard], file: Path) -> CharacterCard:
    if len(names) != 1:
        found = f"several characters speak: {shortened(list(names))}" if names else "the character has no name"
        raise UserError(f"{found}; expected a chat with one", file=file)
    ((name, number),) = names.items()
    wanted = name.casefold()
    found_cards = [
        card
        for slug, card in cards.items()
        if wanted in {known.casefold() for known in (slug, card.name, card.nickname, *card.aliases)}
    ]
    place = f"line {number}, name"
    if not found_cards:
        there = shortened(sorted(card.name for card in cards.values()))
        raise UserError(f"no card has the name {name!r}; there are {there}", file=file, place=place)
    if len(found_cards) > 1:
        raise UserError(f"{len(found_cards)} cards have the name {name!r}; rename all but one", file=file, place=place)
    return found_cards[0]

"""Dialogues from and to files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlrp.cards import CharacterCard, card_to_dict
from rlrp.dialogue.formats import Record, dialogue_of, dialogue_of_chat, is_chat_log
from rlrp.dialogue.items import Contrast, UserPrompt, jsonl_files, read_contrasts, read_prompts, require_unique
from rlrp.dialogue.types import Dialogue
from rlrp.errors import UserError
from rlrp.files import read_json, read_jsonl, write_text

__all__ = ["Contrast", "UserPrompt", "read_contrasts", "read_dialogues", "read_prompts", "write_dialogues"]


def read_dialogues(path: str | Path, cards: Mapping[str, CharacterCard] | None = None) -> list[Dialogue]:
    """Read a ``.jsonl`` file, a folder of them (not its subfolders), or a ``.json`` file with a list.

    A file is either one SillyTavern chat or has a dialogue in each line: ``{"messages": [{"role", "content"}]}``
    (ours, OpenAI's, TRL's) or ``{"conversations": [{"from", "value"}], "system"?}`` (ShareGPT), each with an
    optional ``id`` and ``card`` (a slug of ``cards``, or a card object).

    Raises:
        UserError: unknown card, empty text, wrong role, turns that do not alternate, no assistant turn, an id that
            occurs twice, or nothing to read; with file and line (in ``.json``, the place in the list).
    """
    dialogues: list[Dialogue] = []
    for file in jsonl_files(path):
        records = _records(file)
        if not records:
            raise UserError("is empty; expected a dialogue a line, or a chat", file=file)
        if is_chat_log(records[0][1]):
            dialogues.append(dialogue_of_chat(records, cards, file))
        else:
            dialogues += [dialogue_of(record, cards, file) for record in records]
    require_unique(path, [dialogue.id for dialogue in dialogues], "dialogue")
    return dialogues


def write_dialogues(
    dialogues: Iterable[Dialogue], path: str | Path, *, cards: Mapping[str, CharacterCard] | None = None
) -> None:
    """Write a line per dialogue in our format, whole or not at all.

    Args:
        cards: cards found among these are written as their slug, others as an object.
    """
    slugs = {card: slug for slug, card in (cards or {}).items()}
    lines = []
    for dialogue in dialogues:
        line: dict[str, Any] = {"id": dialogue.id}
        if dialogue.card is not None:
            line["card"] = slugs.get(dialogue.card) or card_to_dict(dialogue.card)
        line["messages"] = [message.as_dict() for message in dialogue.messages]
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(path, "".join(lines))


def _records(file: Path) -> list[Record]:
    if file.suffix.lower() != ".json":
        return list(read_jsonl(file))
    items = read_json(file)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError("expected a list of objects (or a .jsonl file with one a line)", file=file)
    return list(enumerate(items, 1))

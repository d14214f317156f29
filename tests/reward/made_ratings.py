"""Ratings of the made characters' replies: in role is rated well, an assistant's or encyclopaedic manner is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_characters import Lang, base_replies, pool

GOOD, BAD = 4, 2


def lines(
    language: Lang = "en", *, size: int = 10, dimensions: Sequence[str] = ("engagement",)
) -> list[dict[str, Any]]:
    """Five rated replies of each character, three in role and two faulty, by two generators."""
    made = pool(language, size=size)
    base = {reply.card_slug: reply.reply for reply in base_replies(made)}
    found = []
    for dialogue, contrast in zip(made.dialogues, made.contrasts, strict=True):
        asked, said = dialogue.messages[::2], [message.content for message in dialogue.messages[1::2]]
        given = [*((text, GOOD) for text in said), (contrast.faulty, BAD), (base[contrast.card_slug], BAD)]
        for at, (text, score) in enumerate(given):
            found.append(
                {
                    "id": f"{dialogue.id}-{at}",
                    "card": {"name": contrast.card.name, "description": contrast.card.description},
                    "messages": [asked[at % 3].as_dict()],
                    "reply": text,
                    "ratings": {dimension: score for dimension in dimensions},
                    "generator": "Ab"[at % 2],
                }
            )
    return found


def write_lines(path: Path, given: Sequence[Any]) -> Path:
    """JSON lines; what is text already stands as it is."""
    text = "".join((own if isinstance(own, str) else json.dumps(own)) + "\n" for own in given)
    path.write_text(text, encoding="utf-8")
    return path


def bench_row(**changes: Any) -> dict[str, Any]:
    """A row as CharacterBench has it, by hand."""
    row = {
        "id": 7,
        "character_name": "石头",
        "character_profile": {"身份": "石匠", "爱好": ["下棋", "喝茶"]},
        "dialogue": [
            {"turn": 1, "speaker": "user", "utterance": "你是做什么的？"},
            {"turn": 1, "speaker": "bot", "utterance": "凿石头的。"},
        ],
        "messages": {"model": "GLM-4", "speaker": "user", "response": "累不累？"},
        "response_messages": {"model": "Claude3-Opus", "response": "累？俺一天凿三块！"},
        "annotation_score": 4,
        "pred_zh_ref_free": 3.0,
        "translation_en": {
            "character_name": "Stone",
            "character_profile": "A mason.",
            "dialogue": [{"turn": 1, "speaker": "user", "utterance": "What do you do?"}],
            "messages": {"response": "Is it tiring?"},
            "response_messages": {"response": "Tiring? I cut three blocks a day!"},
        },
        "pred_en_ref_free": 2.5,
    }
    return {**row, **changes}


def bench_file(folder: Path, dimension: str, rows: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dimension}_test.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path

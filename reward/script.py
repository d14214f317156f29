"""A card and a conversation as a script, for a language model that need not know a chat format."""

from __future__ import annotations

from reward.text import Language
from rlrp.dialogue.types import Sample

USER: dict[Language, str] = {"zh": "用户", "en": "User"}
COLON: dict[Language, str] = {"zh": "：", "en": ": "}


def script(sample: Sample, *, description: int, message: int, messages: int) -> str:
    """The beginning of the card's description, the last messages' ends, and the name whose reply is next.

    Args:
        description, message: characters of the description and of each message.
        messages: how many of them.
    """
    card, colon = sample.card, COLON[sample.card.language]
    user, name = USER[card.language], card.display_name
    said = [f"{user if m.role == 'user' else name}{colon}{m.content[-message:]}" for m in sample.messages[-messages:]]
    return "\n".join([(card.description or name)[:description], "", *said, f"{name}{colon}"])

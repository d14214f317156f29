"""What may be chosen about the in-character classifier's head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rlrp.config import HeadConfig
from rlrp.errors import UserError

HeadKind = Literal["linear", "cross-encoder", "lm"]
BASES: dict[str, str] = {"cross-encoder": "packaged:all-minilm-l6-v2", "lm": "packaged:smollm2-135m-instruct"}
"""The base models of the trained heads for English, which install from the package index."""
_RATES = {"cross-encoder": 1e-4, "lm": 3e-4}


class HeadOptions(HeadConfig):
    """An experiment's choices, and what the head makes of those left open."""

    def rate(self, head: str) -> float:
        return self.learning_rate or _RATES[head]


def base_model(head: HeadKind, base: str | None, languages: Iterable[str]) -> str:
    """The base model's name.

    Raises:
        UserError: none was given and the head's own knows English alone.
    """
    if base is None and set(languages) - {"en"}:
        raise UserError(
            f"the {head} head's own base model reads English alone; name a multilingual one, a hub id or a directory",
            place="reward.base",
        )
    return base or BASES[head]

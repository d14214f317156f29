"""What may be chosen about the in-character classifier's head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlrp.errors import UserError

HeadKind = Literal["linear", "cross-encoder", "lm"]
BASES: dict[str, str] = {"cross-encoder": "packaged:all-minilm-l6-v2", "lm": "packaged:smollm2-135m-instruct"}
"""The base models of the trained heads for English, which install from the package index."""
_RATES = {"cross-encoder": 1e-4, "lm": 3e-4}


class HeadOptions(BaseModel):
    """Training of the cross-encoder and lm heads; the linear head has nothing to choose."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    epochs: Annotated[int, Field(ge=1)] = 2
    learning_rate: Annotated[float | None, Field(gt=0)] = None
    """Null takes the head's own."""
    max_length: Annotated[int, Field(ge=32)] = 320
    """Tokens of card, messages and reply together; the card is cut first. A third is kept for the reply."""
    messages: Annotated[int, Field(ge=1)] = 4
    """How many of the last messages are read."""
    negatives: Annotated[float, Field(gt=0)] = 2.0
    """Faulty replies in an epoch for each one in role."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Replies in an optimizer step."""
    token_budget: Annotated[int, Field(ge=32)] = 4096
    """Tokens that go through the model at once; a step's gradients are added up over as many parts as it takes."""
    depth: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the lm head: the share of the model's layers that are run. Half of them cost half."""
    lora_r: Annotated[int, Field(ge=1)] = 16
    """Of the lm head: the rank of its adapter."""
    device: str = "auto"
    """``auto`` is a GPU (in bfloat16) where there is one, else the CPU."""

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

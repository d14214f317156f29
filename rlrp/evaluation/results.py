"""One policy's evaluation: a JSON file of values per unit and the replies they came from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlrp.errors import UserError
from rlrp.evaluation.metrics import Direction
from rlrp.files import read_json, write_json


class Turn(BaseModel):
    """One message of the prompt."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str


class Reply(BaseModel):
    """One reply with every term's value (None: abstained) and reasons."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    card: str
    suite: str = ""
    prompt: str | tuple[Turn, ...]
    """The user's message, or the whole dialogue up to the reply."""
    reply: str
    terms: dict[str, float | None] = Field(default_factory=dict)
    reasons: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class Evaluation(BaseModel):
    """A policy's evaluation.

    ``units`` holds metric, then unit id, then value: card slugs for role-play metrics (the card's mean, None where
    every reply abstained), item ids for ``general_exact`` (0 or 1), paragraph ids for ``general_perplexity`` (mean
    nats per token).
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    policy: str = Field(min_length=1)
    n_cards: int = Field(ge=0)
    units: dict[str, dict[str, float | None]]
    better: dict[str, Direction]
    samples: tuple[Reply, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_complete(self) -> Evaluation:
        for name in self.units:
            if name not in self.better:
                raise ValueError(f'better has no entry for {name!r}; say "higher" or "lower"')
        try:
            json.dumps(self.settings, allow_nan=False)
        except ValueError:
            raise ValueError("settings hold NaN or Infinity, which JSON does not have") from None
        return self


def read_evaluation(path: str | Path) -> Evaluation:
    """Read and check one evaluation file.

    Raises:
        UserError: no such file, not JSON, or a field that is missing or wrong, named by its place.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"got a {type(data).__name__}, expected an object as `rlrp eval` writes it", file=path)
    if "policies" in data and "units" not in data:
        raise UserError("is a comparison, expected an evaluation as `rlrp eval` writes it", file=path)
    try:
        return Evaluation.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or None
        raise UserError(re.sub(r"^Value error, ", "", first["msg"]), file=path, place=place) from None


def write_evaluation(path: str | Path, evaluation: Evaluation) -> None:
    """Write the file that ``read_evaluation`` reads."""
    write_json(path, evaluation.model_dump(mode="json"))

"""What may be chosen about a reward that is learnt from people's ratings: a YAML file with ``kind: ratings``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from reward.term_configs import config_class
from reward.text import Language
from rlrp.config import set_value, split_override
from rlrp.errors import UserError
from rlrp.files import read_text

KIND = "ratings"
"""What ``kind`` says in the YAML file of such a reward."""


class RatingsConfig(BaseModel):
    """One reward learnt from ratings. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    kind: Literal["ratings"]
    name: str = Field("reward", pattern=r"^[\w.-]+$")
    run_dir: str | None = None
    """Where everything goes; null is ``runs/<name>``."""
    seed: Annotated[int, Field(ge=0)] = 0
    data: str | None = None
    """A folder of CharacterBench, or JSON lines of ``rlrp reward score`` with ``ratings`` (and ``generator``)."""
    languages: list[Language] = ["zh", "en"]
    aim: Annotated[list[str], Field(min_length=1)] = ["engagement", "human_likeness"]
    """The dimensions that the reward itself is about; each of the others becomes a logged term."""
    readers: dict[Language, str | None] = Field(default_factory=dict)
    """By language, a language model whose hidden states are used too; null without."""
    accept_terms: bool = False
    """Accept the terms of a packaged model that has some."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weights of terms in the reward, in place of people 1, dissonance 0.1 and blacklist 0.1."""
    register_cost: dict[Language, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """By language, what a standard deviation more of the shipped n-gram register (texts about somebody against speech)
    costs, in standard deviations of the prediction: something known before any rating is seen, where few ratings move
    one column in a hundred too little. 0 without."""
    curve: list[str] = []
    """Readers that ``rlrp reward validate`` compares in every language, the smallest first."""

    @field_validator("weights")
    @classmethod
    def _of_terms_without_a_model(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            own = config_class(name)
            if name != "people" and (own is None or "model" in own.model_fields):
                problem = "only people and built-in terms that need no model have a weight here"
                raise PydanticCustomError("weights", problem)
        return weights

    @property
    def run(self) -> Path:
        return Path(self.run_dir or f"runs/{self.name}")


DEFAULT_WEIGHTS = {"people": 1.0, "dissonance": 0.1, "blacklist": 0.1}


def read_ratings_config(path: str | Path, overrides: Sequence[str] = ()) -> RatingsConfig | None:
    """The settings of a file with ``kind: ratings``; None for any other file.

    Raises:
        UserError: not YAML, an unknown key, a wrong value or override.
    """
    try:
        raw = yaml.safe_load(read_text(path))
    except yaml.YAMLError:
        return None  # whoever reads it as an experiment says what is wrong
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        return None
    for override in overrides:
        key, value = split_override(override, "data=PATH")
        if key == "data":
            raw[key] = value  # a path is no YAML
        else:
            set_value(raw, key.split("."), value)
    try:
        return RatingsConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(RatingsConfig.model_fields)
            raise UserError(f"unknown key; there are {known}", file=path, place=place) from None
        raise UserError(f"got {first['input']!r}: {first['msg']}", file=path, place=place) from None

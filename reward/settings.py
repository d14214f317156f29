"""What may be chosen about the training of a reward."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from reward.fit_judge import REWARD_SHARE
from reward.heads.settings import HeadKind, HeadOptions
from reward.negatives import KIND_WEIGHTS
from reward.text import Language

ENCODERS: dict[Language, str] = {"en": "packaged:all-minilm-l6-v2", "zh": "ngrams:128"}


class RewardSettings(BaseModel):
    """What may be chosen about the reward's training.

    Args:
        encoder: of the in-character classifier: ``packaged:NAME``, a hub id, a directory or ``ngrams:N``; for all
            languages, or by language. Languages without one, and None, get the default: MiniLM for English, n-grams
            for Chinese.
        weights: of the terms, in place of the defaults; 0 logs a term without optimising it.
        length: the length guard's band, in words or Chinese characters, in place of its own.
        reward_share: the part of the training characters that trains the reward; the others train the judge.
        kind_weights: the weight of each kind of negative, in place of the defaults; 0 leaves a kind out.
        head: of the in-character classifier: ``linear`` (a minute on a CPU), ``cross-encoder`` or ``lm``.
        base: the model that the cross-encoder or lm head starts from: ``packaged:NAME``, a hub id or a directory; None
            takes a small English one.
        head_options: of the training of those two.
        length_matched: weigh the negatives so that the lengths of each kind are spread as those in role are; None does
            so for the cross-encoder and lm heads alone. The linear head sees no length.
        accept_terms: accept the terms of a packaged base model that has some.
    """

    model_config = ConfigDict(extra="forbid")

    encoder: str | dict[Language, str] | None = None
    weights: dict[str, float] = Field(default_factory=dict)
    length: tuple[int, int] | None = None
    reward_share: Annotated[float, Field(gt=0, lt=1)] = REWARD_SHARE
    kind_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    head: HeadKind = "linear"
    base: str | None = None
    head_options: HeadOptions = HeadOptions()
    length_matched: bool | None = None
    accept_terms: bool = False

    @property
    def matches_lengths(self) -> bool:
        return self.head != "linear" if self.length_matched is None else self.length_matched

    @property
    def all_kind_weights(self) -> dict[str, float]:
        return {**KIND_WEIGHTS, **self.kind_weights}

    def encoders(self) -> dict[Language, str]:
        """The encoder of each language."""
        if isinstance(self.encoder, str):
            return dict.fromkeys(ENCODERS, self.encoder)
        return {**ENCODERS, **(self.encoder or {})}

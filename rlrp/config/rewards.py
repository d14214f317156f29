"""The section on the reward."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlrp.config.base import Settings


class HeadConfig(Settings):
    """Training of the in-character classifier's cross-encoder and lm heads; the linear head has nothing to choose."""

    epochs: int = Field(2, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    """null takes the head's own."""
    max_length: int = Field(320, ge=32)
    """Tokens of card, messages and reply together; the card is cut first, a third is kept for the reply."""
    messages: int = Field(4, ge=1)
    """How many of the last messages are read."""
    negatives: float = Field(2.0, gt=0)
    """Faulty replies in an epoch for each one in role."""
    batch: int = Field(16, ge=1)
    """Replies in an optimizer step."""
    token_budget: int = Field(4096, ge=32)
    """Tokens that go through the model at once; a step adds up gradients over as many parts as it takes."""
    depth: float = Field(1.0, gt=0, le=1)
    """lm: the share of the model's layers that are run; half of them cost half."""
    lora_r: int = Field(16, ge=1)
    """lm: the rank of the adapter."""
    device: str = "auto"
    """``auto`` is a GPU (in bfloat16) where there is one, else the CPU."""


class RewardConfig(Settings):
    """The composite reward: a trained one by path, or one to train from ``data``."""

    path: str | None = None
    """A ``reward.yaml`` made by ``rlrp reward train``; null trains one in the run directory."""
    encoder: str | None = None
    """Encoder of the in-character classifier: ``packaged:NAME``, hub id, directory or ``ngrams:N``; null takes
    MiniLM for English and character n-grams for Chinese."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weights that replace the defaults of the composite, by term; 0 logs a term without optimising it."""
    length: tuple[int, int] | None = None
    """The length guard's band (words; Chinese: characters); null keeps the term's own."""
    base_replies: int = Field(96, ge=0)
    """Replies that the base model is asked for, as negatives: what an assistant says."""
    head: Literal["linear", "cross-encoder", "lm"] = "linear"
    """Of the in-character classifier, of growing cost: ``linear`` trains in a minute on a CPU, the other two are made
    for a GPU."""
    base: str | None = None
    """The model that the cross-encoder or lm head starts from: ``packaged:NAME``, hub id or directory; null takes a
    small English one."""
    head_options: HeadConfig = HeadConfig()
    length_matched: bool | None = None
    """Weigh negatives so that they are as long as replies in role; null does so for cross-encoder and lm alone."""

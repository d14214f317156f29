"""The sections on data, fine-tuning, models and evaluation."""

from __future__ import annotations

from pydantic import Field

from rlrp.config.base import Fraction, Settings


class DataConfig(Settings):
    """Where cards, dialogues and prompts are. ``builtin:`` names what the package ships."""

    cards: str = "builtin:cards/en"
    """A folder or file of character cards (JSON, PNG, charx)."""
    dialogues: str = "builtin:dialogues/en"
    """Dialogues of those characters for SFT and for the reward's positives."""
    contrasts: str | None = "builtin:contrasts/en"
    """Matched pairs of an in-role reply and a faulty one, for the reward; null without."""
    general: str | None = "builtin:general/en.jsonl"
    """General question-answer pairs that keep what the model could do; null without."""
    prompts: str = "builtin:prompts/en.jsonl"
    """What users say in RL: each line meets a training card."""
    held_out: float | str = "builtin:splits.json"
    """Characters never trained on: a share of the cards, or a file that names them."""


class LoraConfig(Settings):
    """Low-rank adapters (arXiv 2106.09685)."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """The update is scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"
    """Modules to adapt: their names, or all linear layers but the vocabulary projection."""


class SftConfig(Settings):
    """Supervised fine-tuning on role-play dialogues mixed with general data."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the mixture; may be a fraction."""
    batch_size: int = Field(4, ge=1)
    """Dialogues per optimizer step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Higher than usual, with a long warm-up, against overfitting on few dialogues per character."""
    warmup_ratio: Fraction = 0.15
    """Share of the steps in which the learning rate rises."""
    general_share: float = 0.25
    """Share of general data among all examples: above 0.5 is refused, outside 0.2 to 0.3 is warned about."""
    max_tokens: int = Field(1024, ge=16)
    """Longest dialogue in tokens; a longer one loses its last turns."""
    lora: LoraConfig = LoraConfig()


class LmConfig(Settings):
    """How models are run, by whatever runs them: sampling, learning, scoring, evaluation."""

    share_prefix: bool = True
    """Compute each prompt once per group; false takes the plain path everywhere: the same results, slower."""


class EvaluationConfig(Settings):
    """What policies are compared on: held-out cards, probes, general ability."""

    prompts: str = "builtin:evaluation/prompts_en.jsonl"
    over_cooperation: str = "builtin:evaluation/over_cooperation_en.jsonl"
    general: str = "builtin:evaluation/general_en.jsonl"
    text: str = "builtin:evaluation/text_en.txt"
    prompts_per_card: int = Field(4, ge=1)
    samples_per_prompt: int = Field(2, ge=1)
    probes_per_card: int = Field(2, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.7, ge=0)
    general_items: int | None = Field(None, ge=1)
    """How many general items to ask; null asks all."""
    resamples: int = Field(10_000, ge=100)

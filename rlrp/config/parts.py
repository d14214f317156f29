"""The parts of the section on reinforcement learning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlrp.algorithms import Correction, CorrectionLevel, KlPlace
from rlrp.config.base import Fraction, Settings
from rlrp.config.data import LoraConfig


class KlConfig(Settings):
    """The anchor: KL(policy || SFT checkpoint)."""

    place: KlPlace = Field("loss", alias="in")
    """``loss``: beside the surrogate, in nats a token. ``reward``: k1 taken from the reward of the token it is of (ppo,
    reinforce++), or of the whole reply (its sum, in nats a reply). ppo, rloo and reinforce++: ``reward``."""
    coef: float = Field(0.05, ge=0)
    """Weight of the KL; 0 leaves the anchor out (and saves the reference forward)."""
    target: float | None = Field(0.10, gt=0)
    """Per-token KL in nats that an adaptive coefficient steers to; null keeps ``coef`` fixed."""
    gain: float = Field(0.2, gt=0)
    """How strongly the coefficient answers, per step."""
    min_coef: float = Field(1e-4, ge=0)
    """The adaptive coefficient falls no lower. A short run that starts far below its target lets go of the anchor, and
    has no steps left to take it up again."""
    estimator: Literal["k2", "k3", "k3_unbiased", "full"] = "k3_unbiased"
    """In the loss: k2, k3 and k3_unbiased are of the sampled token; ``full`` is of the whole vocabulary at every token
    of the replies, without their noise and at the price of a second set of logits."""
    general: int = Field(0, ge=0)
    """General question-answer pairs (``data.general``) per step on which the policy is held to the anchor too."""
    general_coef: float = Field(1.0, gt=0)
    """Weight in the loss of the KL on those pairs."""


class CriticConfig(Settings):
    """ppo: what predicts the reward to come at every token, by a value head on a language model's hidden states."""

    model: str | None = None
    """null: an adapter of its own on the policy's base model. Else a model of its own, with an adapter, that has the
    policy's tokenizer: hub id, directory or ``packaged:NAME``."""
    lora: LoraConfig = LoraConfig()
    learning_rate: float = Field(1e-3, gt=0)
    """The head starts at about 0 and has further to go than the policy."""
    warmup_steps: int = Field(2, ge=0)
    """First steps, in which only the critic learns and the policy stays as it is."""
    value_clip: float | None = Field(0.2, gt=0)
    """How far one step may move a value towards its return, in units of the reward; null does not limit it."""
    gamma: Fraction = 1.0
    """What a reward one token later is worth."""
    lam: Fraction = 0.95
    """GAE: 1 believes the rewards alone, 0 the critic."""


class CorrectionConfig(Settings):
    """Importance weights for replies that another policy drew than the learner's: stale, or rounded otherwise.

    With them the clipped ratio is against the learner's own log-probabilities at the start of the step.
    """

    kind: Correction = "none"
    """``truncate`` bounds a weight, ``mask`` makes one beyond its bounds 0."""
    level: CorrectionLevel = "token"
    """Weights of single tokens, or one for a reply: the product of its tokens'."""
    cap: float = Field(2.0, ge=1)
    """Upper bound of learner over sampler."""
    floor: float | None = Field(None, ge=0, le=1)
    """Lower bound; null is none for ``truncate`` and 1 / ``cap`` for ``mask``."""


class OverlongConfig(Settings):
    """DAPO's soft punishment of replies that come near ``rl.max_new_tokens``."""

    buffer: int = Field(ge=1)
    """Tokens before the longest reply over which the punishment grows from 0 to ``penalty``."""
    penalty: float = Field(1.0, gt=0)
    """The whole punishment, taken from the total before advantages are made."""


class DynamicSamplingConfig(Settings):
    """DAPO's dynamic sampling: prompts whose replies all got the same reward are replaced by others."""

    rounds: int = Field(2, ge=1)
    """How often a step may draw again; what is still equal then stays in the batch."""


class UserConfig(Settings):
    """Who talks with the policy in episodes: a script or another language model, one of the two."""

    script: str | None = None
    """A file as ``data.prompts``. Where the prompt's line begins a conversation of it (its ``then`` says how it goes
    on), that goes on, and the episode ends with it; elsewhere further lines are drawn from it."""
    model: str | None = None
    """The model in the user's part, e.g. the base assistant: hub id, directory or ``packaged:NAME``. It lies beside the
    policy in every rollout actor."""
    chat_template: str | None = None
    """For a model without a template of its own, as ``chat_template``."""
    personas: str | None = None
    """A text file of who the model may be, a paragraph each, with the macros of cards (``{{char}}``, ``{{user}}``); one
    is drawn for each prompt. null takes ``builtin:users/en.txt`` or ``builtin:users/zh.txt`` by the card's language."""
    temperature: float = Field(0.9, ge=0)
    max_new_tokens: int = Field(48, ge=1)
    """The model's longest line in tokens; one that is longer is broken off there."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> UserConfig:
        if (self.script is None) == (self.model is None):
            got = "both" if self.script else "neither"
            raise ValueError(f"got {got}, expected one of script and model")
        for name in ("chat_template", "personas", "temperature", "max_new_tokens"):
            if self.script is not None and getattr(self, name) != UserConfig.model_fields[name].default:
                raise ValueError(f"{name} is a user model's; a script has no use for it")
        return self


class EpisodesConfig(Settings):
    """Conversations of several turns: after each reply a simulated user answers, and the policy replies again."""

    turns: int = Field(ge=2)
    """The policy's replies in an episode, at most: it ends early with a reply broken off at ``rl.max_new_tokens``, and
    when the user has nothing more to say."""
    user: UserConfig
    judge: Literal["last", "every"] = "last"
    """Which replies the reward is asked about. ``every``: a conversation's total is the mean over its replies."""

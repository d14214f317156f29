"""The section on reinforcement learning."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import Field, model_validator

from rlrp.algorithms import ALGORITHMS, Name, Scale
from rlrp.config.base import Settings
from rlrp.config.data import LoraConfig
from rlrp.config.engines import VllmConfig, ZeroConfig
from rlrp.config.parts import (
    CorrectionConfig,
    CriticConfig,
    DynamicSamplingConfig,
    EpisodesConfig,
    KlConfig,
    OverlongConfig,
)


class RlConfig(Settings):
    """A step draws ``prompts * group_size`` replies and makes ``epochs * minibatches`` updates."""

    algorithm: Name = "grpo"
    """What it is made of, and its defaults of the clips and ``advantage_scale``, is a table in ``rlrp.algorithms``."""
    steps: int = Field(20, ge=1)
    prompts: int = Field(4, ge=1)
    """Prompts per step."""
    group_size: int = Field(8, ge=1)
    """Replies per prompt; ppo and reinforce++, which have no baseline of the group, do with one."""
    epochs: int = Field(1, ge=1)
    """Passes over a step's replies."""
    minibatches: int = Field(1, ge=1)
    """Updates per pass, each on a share of the step's prompts."""
    token_budget: int = Field(1600, ge=64)
    """Most tokens in one micro-batch: memory, not results, depends on it."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest reply in tokens; in episodes each reply's own."""
    temperature: float = Field(0.9, gt=0)
    """Sampling temperature; log-probabilities everywhere are at this temperature."""
    learning_rate: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(2, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    clip_low: float = Field(0.2, gt=0)
    """Lower clipping of the ratio, at 1 - ``clip_low``; gspo: 0.0003, cispo: 1, which is none. In bfloat16 sampler and
    learner can round further apart than gspo's clips: watch ``clip_fraction``."""
    clip_high: float = Field(0.28, gt=0)
    """Upper clipping of the ratio, at 1 + ``clip_high``; above ``clip_low`` it is DAPO's clip-higher. gspo: 0.0004,
    cispo: 4, rloo and reinforce++: 0.2."""
    advantage_scale: Scale = "group"
    """What advantages are divided by: the rewards' standard deviation in the ``group``, the ``batch``, all groups of
    the ``character``; ``terms``, each reward term's in the group, before they are weighed (GDPO); ``none``; or
    ``whiten``: mean 0 and deviation 1 over the batch. rloo: ``none`` (or ``whiten``), ppo and reinforce++:
    ``whiten``."""
    kl: KlConfig = KlConfig()
    episodes: EpisodesConfig | None = None
    """Conversations with a simulated user; null: a completion is one reply to the prompt."""
    critic: CriticConfig = CriticConfig()
    """ppo alone has one."""
    correction: CorrectionConfig = CorrectionConfig()
    overlong: OverlongConfig | None = None
    """Soft punishment of replies near the longest; part of dapo's paper, null without."""
    dynamic_sampling: DynamicSamplingConfig | None = None
    """Draw again what teaches nothing; part of dapo's paper, null without."""
    lora: LoraConfig | None = LoraConfig()
    """null trains all weights, from which the anchor then needs a copy of its own."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more work, and each layer keeps its input alone."""
    zero: ZeroConfig | None = None
    """How several learner workers share what they train (``pip install 'rlrp[deepspeed]'``); null is one worker in
    plain torch."""
    checkpoint_every: int = Field(10, ge=1)
    """Steps between checkpoints; the last step always leaves one."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the newest stay. Beside them the one with the best reward stays, as ``checkpoints/best``."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    engine: Literal["ours", "vllm"] = "ours"
    """What rollout workers sample with: ours computes each prompt once per group, on CPU or GPU; vllm is faster on a
    GPU."""
    vllm: VllmConfig = VllmConfig()
    """For ``engine: vllm``."""

    staleness: int = Field(0, ge=0)
    """0: every group is sampled by the policy that learns from it, and a seed gives the same bits. k: up to k further
    batches are sampled while the learner works, by policies up to k steps older."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_algorithm(cls, raw: Any) -> Any:
        name = raw.get("algorithm", "grpo") if isinstance(raw, dict) else None
        algorithm = ALGORITHMS.get(cast(Name, name)) if isinstance(name, str) else None
        if algorithm is None:
            return raw
        own, kl = algorithm.defaults(), raw.get("kl", {})
        if isinstance(kl, dict):
            raw = raw | {"kl": own["kl"] | kl}
        return own | raw

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> RlConfig:
        algorithm = ALGORITHMS[self.algorithm]
        if self.advantage_scale not in algorithm.scales:
            raise ValueError(
                f"rl.advantage_scale: got {self.advantage_scale!r}, expected "
                f"{' or '.join(map(repr, algorithm.scales))} for {self.algorithm}"
            )
        if self.group_size < algorithm.least_group:
            raise ValueError(
                f"rl.group_size: got {self.group_size}, need >= {algorithm.least_group} for {self.algorithm} (every "
                "advantage would be 0); ppo and reinforce++ do with 1"
            )
        if not algorithm.critic and "critic" in self.model_fields_set and self.critic != CriticConfig():
            raise ValueError(f"rl.critic: {self.algorithm} has no critic; rl.algorithm: ppo has one")
        if self.dynamic_sampling and algorithm.baseline == "none":
            raise ValueError(
                f"rl.dynamic_sampling: {self.algorithm} has no baseline of the group, so groups of equal rewards "
                "teach it; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> RlConfig:
        in_reward = self.kl.place == "reward" and self.kl.coef > 0
        if in_reward and self.advantage_scale == "terms":
            raise ValueError("rl.kl.in: a KL in the reward is no term; rl.advantage_scale: terms needs rl.kl.in: loss")
        if in_reward and "estimator" in self.kl.model_fields_set and self.kl.estimator != "k3_unbiased":
            raise ValueError(
                f"rl.kl.estimator: got {self.kl.estimator!r}; in the reward the KL is k1, estimators are for "
                "rl.kl.in: loss"
            )
        if self.minibatches > self.prompts:
            raise ValueError(f"rl.minibatches: got {self.minibatches}, at most the {self.prompts} of rl.prompts")
        if self.overlong and self.overlong.buffer > self.max_new_tokens:
            raise ValueError(
                f"rl.overlong.buffer: got {self.overlong.buffer}, at most the {self.max_new_tokens} tokens of "
                "rl.max_new_tokens"
            )
        return self

"""What a learner is told, and what it reports of a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlrp.algorithms import Aggregate, Baseline, KlPlace, Ratio, Scale, Surrogate
from rlrp.lm.adapters import LoraSettings
from rlrp.lm.scoring import TokenGroup
from rlrp.rl.correction import CorrectionSettings
from rlrp.rl.critic import CriticSettings
from rlrp.rl.kl import Estimator
from rlrp.rl.zero import ZeroSettings


@dataclass(frozen=True)
class LearnerSettings:
    model: str
    chat_template: str | None = None
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    """None trains all weights."""
    seed: int = 0
    learning_rate: float = 3e-4
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    epochs: int = 1
    minibatches: int = 1
    aggregate: Aggregate = "grpo"
    surrogate: Surrogate = "clip"
    ratio: Ratio = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    baseline: Baseline = "group"
    advantage_scale: Scale = "group"
    """With the baseline: for advantages that are made here."""
    critic: CriticSettings | None = None
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    temperature: float = 1.0
    max_new_tokens: int = 64
    token_budget: int = 2048
    share_prefix: bool = True
    kl_place: KlPlace = "loss"
    kl_coef: float = 0.0
    kl_target: float | None = None
    kl_gain: float = 0.1
    kl_min_coef: float = 1e-4
    kl_estimator: Estimator | Literal["full"] = "k3_unbiased"
    general: tuple[TokenGroup, ...] = ()
    general_pairs: int = 0
    general_coef: float = 1.0
    gradient_checkpointing: bool = False
    zero: ZeroSettings | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None

    @property
    def parts_weights(self) -> bool:
        return self.zero is not None and self.zero.stage == 3

    @property
    def needs_anchor(self) -> bool:
        return self.kl_coef > 0 or self.general_pairs > 0

    @property
    def first_step_tolerance(self) -> float:
        """How far sampler and learner may differ (mean, nats), and how large the KL may be, before the first update."""
        return 1e-3 if self.dtype == "float32" else 5e-2

    @property
    def updates_per_step(self) -> int:
        return self.epochs * self.minibatches

    @property
    def kl_in_reward(self) -> bool:
        return self.kl_coef > 0 and self.kl_place == "reward"

    @property
    def whole_kl(self) -> bool:
        """Whether the KL in the loss is of the whole vocabulary."""
        return self.kl_coef > 0 and self.kl_place == "loss" and self.kl_estimator == "full"


@dataclass
class StepReport:
    """What one step did: numbers for the log, and per completion (in input order) its KL to the anchor."""

    metrics: dict[str, float]
    kl: list[list[float]] = field(default_factory=list)
    advantages: list[list[float]] = field(default_factory=list)
    """Mean over each completion's tokens, where advantages were made here; else empty."""

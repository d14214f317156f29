"""One experiment: all sections, and what they must agree on."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from rlrp.algorithms import ALGORITHMS
from rlrp.config.base import Settings
from rlrp.config.cluster import ClusterConfig, TrackingConfig
from rlrp.config.data import DataConfig, EvaluationConfig, LmConfig, SftConfig
from rlrp.config.rewards import RewardConfig
from rlrp.config.rl import RlConfig


class Config(Settings):
    """One experiment."""

    name: str = Field("run", pattern=r"^[\w.-]+$")
    seed: int = Field(0, ge=0)
    run_dir: str | None = None
    """Where everything goes; null is ``runs/<name>``."""
    model: str = "packaged:smollm2-135m-instruct"
    """Hub id, directory, adapter directory, or ``packaged:NAME``."""
    chat_template: str | None = None
    """A Jinja file or a built-in name, for models without a template of their own."""
    accept_terms: bool = False
    """Accept the terms of a packaged model that has some."""
    data: DataConfig = DataConfig()
    sft: SftConfig | None = SftConfig()
    """null starts RL from ``model`` itself: it is your SFT checkpoint."""
    reward: RewardConfig = RewardConfig()
    rl: RlConfig = RlConfig()
    lm: LmConfig = LmConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _shares(self) -> Config:
        if self.sft is not None and self.sft.general_share > 0.5:
            raise ValueError(
                f"sft.general_share: got {self.sft.general_share}, at most 0.5 (0.2 to 0.3 works well): role-play "
                "dialogue must dominate"
            )
        if self.rl.kl.general and not self.data.general:
            raise ValueError("rl.kl.general asks for general pairs and there are none; set data.general or leave it 0")
        return self

    @model_validator(mode="after")
    def _learners(self) -> Config:
        workers, zero = self.cluster.learner.actors, self.rl.zero
        if workers > 1 and zero is None:
            raise ValueError(
                f"cluster.learner.actors: got {workers} without rl.zero; several workers share a learner by DeepSpeed: "
                "set rl.zero.stage"
            )
        if self.cluster.learner.max_actors is not None:
            raise ValueError("cluster.learner.max_actors: a learner does not grow while it learns; leave it out")
        if not ALGORITHMS[self.rl.algorithm].critic or self.rl.critic.model is not None:
            return self
        if zero is not None and zero.stage == 3:
            raise ValueError(
                "rl.critic.model: got null with rl.zero.stage 3; a critic shares the policy's weights only where they "
                "are whole: give it a model of its own or take stage 2"
            )
        if self.rl.lora is None:
            raise ValueError(
                "rl.critic.model: got null with rl.lora null; a critic cannot lie on weights that are trained: give it "
                "a model of its own"
            )
        return self

    @model_validator(mode="after")
    def _engine(self) -> Config:
        if self.rl.engine != "vllm":
            return self
        gpus, parallel = self.cluster.rollout.gpus, self.rl.vllm.tensor_parallel
        if gpus > 0 and parallel > 1 and gpus != parallel:
            raise ValueError(
                f"rl.vllm.tensor_parallel: got {parallel} with cluster.rollout.gpus of {gpus:g}; an engine needs as "
                "many GPUs as it spreads the model over"
            )
        if not 0.01 <= self.rl.temperature <= 2:
            raise ValueError(f"rl.temperature: got {self.rl.temperature:g}, expected 0.01 to 2 with rl.engine: vllm")
        return self

    @property
    def run(self) -> Path:
        return Path(self.run_dir or f"runs/{self.name}")

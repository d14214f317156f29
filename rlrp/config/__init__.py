"""Typed settings. One YAML file is one experiment; unknown keys are errors; every field says what it does."""

from rlrp.config.base import Settings
from rlrp.config.cluster import ClusterConfig, NodeConfig, TrackingConfig, WorkerConfig
from rlrp.config.data import DataConfig, EvaluationConfig, LmConfig, LoraConfig, SftConfig
from rlrp.config.engines import VllmConfig, ZeroConfig
from rlrp.config.experiment import Config
from rlrp.config.parts import (
    CorrectionConfig,
    CriticConfig,
    DynamicSamplingConfig,
    EpisodesConfig,
    KlConfig,
    OverlongConfig,
    UserConfig,
)
from rlrp.config.reading import dump_config, fingerprint, load_config, set_value, split_override
from rlrp.config.rewards import HeadConfig, RewardConfig
from rlrp.config.rl import RlConfig

__all__ = [
    "ClusterConfig",
    "Config",
    "CorrectionConfig",
    "CriticConfig",
    "DataConfig",
    "DynamicSamplingConfig",
    "EpisodesConfig",
    "EvaluationConfig",
    "HeadConfig",
    "KlConfig",
    "LmConfig",
    "LoraConfig",
    "NodeConfig",
    "OverlongConfig",
    "RewardConfig",
    "RlConfig",
    "Settings",
    "SftConfig",
    "TrackingConfig",
    "UserConfig",
    "VllmConfig",
    "WorkerConfig",
    "ZeroConfig",
    "dump_config",
    "fingerprint",
    "load_config",
    "set_value",
    "split_override",
]

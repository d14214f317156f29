"""rlrp: align role-playing language models by reinforcement learning."""

__version__ = "0.1.0"

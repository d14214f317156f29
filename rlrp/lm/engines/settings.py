"""What an engine is told, as plain data that travels to another process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlrp.lm.adapters import LoraSettings

EngineName = Literal["ours", "vllm"]


@dataclass(frozen=True)
class VllmSettings:
    """vLLM's part; ``options`` are arguments of ``vllm.LLM`` that are passed on as they are."""

    gpu_memory_utilization: float = 0.85
    max_model_len: int | None = None
    tensor_parallel: int = 1
    enforce_eager: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineSettings:
    """A model, how the adapter that will be sent belongs to it, and what runs them."""

    model: str
    chat_template: str | None = None
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    """None: whole weights will be sent."""
    share_prefix: bool = True
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    engine: EngineName = "ours"
    vllm: VllmSettings = field(default_factory=VllmSettings)

    @property
    def scaling(self) -> float:
        """Of an adapter's product, where one is merged."""
        return self.lora.scaling if self.lora else 1.0

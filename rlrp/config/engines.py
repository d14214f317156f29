"""What is passed on to vLLM and DeepSpeed, and what is ours to say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rlrp.config.base import Settings


class VllmConfig(Settings):
    """vLLM as rollout engine (``pip install 'rlrp[vllm]'``). Prefix caching is on; weights are merged and verified."""

    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory for weights and keys and values; less where a learner shares the GPU."""
    max_model_len: int | None = Field(None, ge=1)
    """Longest prompt and reply together; null takes the model's own, whose keys and values must fit."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that one engine spreads the model over: ``cluster.rollout.gpus`` must be as many."""
    enforce_eager: bool = False
    """No compilation and no CUDA graphs: starts sooner, samples slower. The CPU build always runs so."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of ``vllm.LLM``, passed on as they are, such as ``max_num_seqs: 128``."""

    @model_validator(mode="after")
    def _options_of_ours(self) -> VllmConfig:
        for name, place in _VLLM_OPTIONS_OF_OURS.items():
            if name in self.options:
                raise ValueError(f"rl.vllm.options: got {name}, which follows from {place}; leave it out")
        return self


_VLLM_OPTIONS_OF_OURS = {
    "model": "model",
    "tokenizer": "model",
    "dtype": "rl.dtype",
    "gpu_memory_utilization": "rl.vllm.gpu_memory_utilization",
    "max_model_len": "rl.vllm.max_model_len",
    "tensor_parallel_size": "rl.vllm.tensor_parallel",
    "enforce_eager": "rl.vllm.enforce_eager",
    "enable_prefix_caching": "what a group of replies is",
    "logprobs_mode": "what the learner recomputes",
    "generation_config": "rl.temperature",
    "worker_extension_cls": "how weights are sent",
    "quantization": "the policy's weights, which the sampler must hold bit for bit",
}
"""Options of vLLM that are not free, and what they follow from."""


_ZERO_OPTIONS_OF_OURS = {
    "train_batch_size": "rl.prompts and rl.group_size",
    "train_micro_batch_size_per_gpu": "rl.token_budget",
    "gradient_accumulation_steps": "rl.token_budget",
    "managed_gradient_accumulation": "rl.token_budget",
    "gradient_clipping": "rl.max_grad_norm",
    "optimizer": "rl.learning_rate",
    "scheduler": "rl.warmup_steps",
    "fp16": "rl.dtype",
    "bf16": "rl.dtype",
    "data_types": "rl.dtype",
    "gradient_allreduce_op": "the batch, in which every reply has its weight",
    "zero_optimization.stage": "rl.zero.stage",
}
"""Parts of DeepSpeed's configuration that are not free, and what they follow from."""


class ZeroConfig(Settings):
    """DeepSpeed's ZeRO (arXiv 1910.02054): what ``cluster.learner.actors`` workers need not each hold a copy of."""

    stage: Literal[1, 2, 3] = 2
    """Spread over the workers are: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    offload_optimizer: bool = False
    """The optimizer's state and step lie on the CPU."""
    offload_parameters: bool = False
    """Stage 3: weights lie in the machine's memory and come to the GPU layer by layer."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further DeepSpeed configuration, passed on as it is, such as
    ``{zero_optimization: {offload_optimizer: {device: nvme, nvme_path: /fast}}}``."""

    @model_validator(mode="after")
    def _fits_together(self) -> ZeroConfig:
        if self.offload_parameters and self.stage < 3:
            raise ValueError(f"offload_parameters: got true with stage {self.stage}; weights are spread by stage 3")
        inner = self.options.get("zero_optimization")
        given = {*self.options, *(f"zero_optimization.{name}" for name in (inner if isinstance(inner, dict) else {}))}
        for name, place in _ZERO_OPTIONS_OF_OURS.items():
            if name in given:
                raise ValueError(f"rl.zero.options: got {name}, which follows from {place}; leave it out")
        return self

"""vLLM as an engine: its prefix caching, its kernels; our token ids, seeds, stop tokens and verified weights.

Left out: truncated distributions (top-k, top-p, min-p). vLLM's log-probabilities are then those of what is left, and
a learner recomputes those of the whole distribution.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from rlrp.errors import UserError, first_line
from rlrp.lm.adapters import AdapterState
from rlrp.lm.chat import ChatFormat
from rlrp.lm.engines.settings import EngineSettings
from rlrp.lm.load import is_adapter, load_tokenizer, resolve_model
from rlrp.lm.sampling import Completion, FinishReason, SampleRequest, SamplingSettings

CPU_CACHE_BYTES = 2 << 30
"""Keys and values of the CPU build, which would else take a share of the machine's memory as if it were a card's."""
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 2.0
"""vLLM raises a lower temperature to this without an error, and refuses a higher one; 0 is greedy."""
MAX_SEED = (1 << 63) - 1


class VllmEngine:
    """An ``LLM`` with the policy's merged weights in it."""

    def __init__(self, settings: EngineSettings):
        llm_class = _import_vllm(settings.device)
        self.scaling = settings.scaling
        self.folder = _model_folder(settings.model)
        self.tokenizer = load_tokenizer(settings.model, chat_template=settings.chat_template)
        self.chat = ChatFormat(self.tokenizer)
        try:
            self.llm = llm_class(**llm_options(settings, self.folder))
        except (TypeError, ValueError) as error:  # an unknown option, or one that does not fit the model or machine
            raise UserError(f"vLLM does not start: {first_line(error, 400)}", place="rl.vllm") from error
        self.context: int = self.llm.llm_engine.model_config.max_model_len

    def load(self, state: AdapterState) -> str:
        """Send the weights to vLLM's workers, each of which takes its part and reads it back; see ``WeightSync``."""
        with tempfile.TemporaryDirectory(prefix="rlrp-weights-") as folder:
            file = str(Path(folder) / "sent.safetensors")
            save_file(state, file)
            held = self.llm.collective_rpc("rlrp_load", args=(file, self.folder, self.scaling))
        self.forget()
        return "/".join(sorted(set(held)))

    def forget(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept the keys and values of earlier prompts")

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        """Every completion is a request of its own with its own seed; the cache makes their prompt one."""
        check_request(requests, settings, self.context)
        rows = [(request.prompt, seed) for request in requests for seed in request.seeds]
        outputs = iter(
            self.llm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt, _ in rows],
                [self._params(seed, settings) for _, seed in rows],
                use_tqdm=False,
            )
            if rows
            else ()
        )
        return [[self._completion(next(outputs).outputs[0], settings) for _ in request.seeds] for request in requests]

    def _params(self, seed: int, settings: SamplingSettings) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=settings.temperature,
            max_tokens=settings.max_new_tokens,
            seed=seed & MAX_SEED,
            logprobs=0,  # of the token drawn, and of no other
            # The stop tokens are ours; those of the model's own generation settings stay out.
            ignore_eos=True,
            stop_token_ids=[] if settings.ignore_stop else sorted(self.chat.stop_ids),
            stop=list(settings.stop_strings) or None,
            detokenize=bool(settings.stop_strings),
        )

    def _completion(self, output: Any, settings: SamplingSettings) -> Completion:
        ids = tuple(output.token_ids)
        logps = tuple(float(step[token].logprob) for step, token in zip(output.logprobs, ids, strict=True))
        if output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM gave a completion up: {output.finish_reason}")
        cut = isinstance(output.stop_reason, str)
        text = output.text.strip() if cut else self.chat.decode_reply(ids)
        finish: FinishReason = output.finish_reason
        return Completion(ids, logps, text, finish, settings.truncates)


def llm_options(settings: EngineSettings, folder: str) -> dict[str, Any]:
    """The arguments of ``vllm.LLM``."""
    vllm, on_cpu = settings.vllm, settings.device == "cpu"
    options: dict[str, Any] = {
        "model": folder,
        "dtype": settings.dtype,
        "gpu_memory_utilization": vllm.gpu_memory_utilization,
        "tensor_parallel_size": vllm.tensor_parallel,
        # The CPU build's compiled graphs hold on to the packed weights they were traced with.
        "enforce_eager": vllm.enforce_eager or on_cpu,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "generation_config": "vllm",  # no sampling settings that come with the model
        "worker_extension_cls": "rlrp.lm.engines.vllm_weights.WeightSync",
        "use_tqdm_on_load": False,
    }
    if vllm.max_model_len:
        options["max_model_len"] = vllm.max_model_len
    if vllm.tensor_parallel > 1:
        options["distributed_executor_backend"] = "mp"  # the actor has all the GPUs; no second Ray in it
    if on_cpu:
        options["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    return options | vllm.options


def check_request(requests: Sequence[SampleRequest], settings: SamplingSettings, context: int) -> None:
    """Refuse what vLLM would do otherwise than asked."""
    if settings.truncates:
        raise UserError(
            "top_k, top_p and min_p: vLLM gives no log-probabilities of the whole distribution with them; leave them "
            "out, or set rl.engine: ours",
            place="rl.engine",
        )
    temperature = settings.temperature
    if temperature and not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        raise UserError(
            f"got {temperature:g}; vLLM takes 0 (greedy) or {LOWEST_TEMPERATURE:g} to {HIGHEST_TEMPERATURE:g}",
            place="temperature",
        )
    longest = max((len(request.prompt) for request in requests), default=0)
    if longest + settings.max_new_tokens > context:
        raise UserError(
            f"a prompt of {longest} tokens and a reply of {settings.max_new_tokens} exceed vLLM's context of "
            f"{context}; shorten the card or history, lower max_new_tokens, or raise max_model_len",
            place="rl.vllm.max_model_len",
        )


def _import_vllm(device: str) -> Any:
    # Engine and worker in this process: scheduling is then a function of the requests alone. Users may set otherwise.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise UserError(
            f"vLLM cannot be imported ({first_line(error, 200)}); pip install 'rlrp[vllm]', or set rl.engine: ours",
            place="rl.engine",
        ) from error
    if current_platform.is_cpu() != (device == "cpu"):
        has, wants = ("the CPU build", "0") if current_platform.is_cpu() else ("made for a GPU", "at least 1")
        raise UserError(f"this vLLM is {has}: it wants {wants}", place="cluster.rollout.gpus")
    return LLM


def _model_folder(spec: str) -> str:
    """The directory with the model's own weights, from which every merge starts."""
    path = resolve_model(spec)
    if is_adapter(path):
        raise UserError(
            f"{spec} is an adapter's directory, and vLLM starts from whole weights; merge it into its base "
            "(peft's merge_and_unload, then save_pretrained), or set rl.engine: ours",
            place="model",
        )
    if Path(path).is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(path, allow_patterns=["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UserError(f"cannot fetch {spec}: {first_line(error, 300)}", place="model") from error

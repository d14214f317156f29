"""DeepSpeed's ZeRO (arXiv 1910.02054) as an engine: optimizer state (1), gradients (2) and weights (3) are spread
over the workers.

DeepSpeed averages gradients over workers and, within a step, wants as many backward passes from each; the learner's
loss is a sum over the whole batch, so it is scaled by the number of workers first.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rlrp.errors import UserError
from rlrp.rl.engines import MASTER, by_parameter
from rlrp.rl.team import Team
from rlrp.rl.trained import Trained, Trunk

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class ZeroSettings:
    """How weights and optimizer are spread."""

    stage: int = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further DeepSpeed configuration, in its own words."""


class ZeroEngine:
    """AdamW over the parameters of a policy or critic, spread by DeepSpeed. It takes their root over."""

    def __init__(self, trained: Trained, settings: ZeroSettings, team: Team, learning_rate: float, device: str):
        deepspeed = prepare(device)
        deepspeed.init_distributed(verbose=False)  # it takes the process group that the team has joined
        self.trained, self.settings, self.team = trained, settings, team
        self.parameters = trained.parameters
        self.low_precision = any(p.dtype != torch.float32 for p in self.parameters.values())
        config = deepspeed_config(settings, team, bfloat16=self.low_precision)
        if settings.stage == 3:
            self._spread(trained.root, config, device)
        trained.device = torch.device(device)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=learning_rate, weight_decay=0.0)
        self.moves, moving = True, self.optimizer.step
        # DeepSpeed calls it whatever the loss was. Not by a subclass: it warns of optimizers that it does not know.
        self.optimizer.step = lambda: moving() if self.moves else None  # type: ignore[method-assign,assignment,misc]
        self.engine, *_ = deepspeed.initialize(model=trained.root, optimizer=self.optimizer, config=config)
        trained.root = self.engine

    @staticmethod
    def _spread(root: nn.Module, config: dict[str, Any], device: str) -> None:
        """Part the weights one after the other, so that no GPU ever holds the model; buffers are not parted."""
        deepspeed = _deepspeed()
        for module in root.modules():
            if isinstance(module, Trunk):
                for parameter in module.borrowed:
                    deepspeed.zero.register_external_parameter(module, parameter)
        deepspeed.zero.Init(module=root, config_dict_or_path=config)
        for buffer in root.buffers():
            buffer.data = buffer.data.to(device)

    @property
    def learning_rate(self) -> float:
        return float(self.engine.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = value

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss * self.team.size)

    def step(self, max_norm: float, *, finite: bool = True) -> tuple[float, bool]:
        self.engine.optimizer.clip_grad = max_norm
        self.moves = finite
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm())
        return norm, finite and self.engine.was_step_applied() and math.isfinite(norm)

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
        if self.settings.stage < 3:
            return nullcontext()
        # All workers write the same, and the first one's is taken.
        gathered: AbstractContextManager[Any] = _deepspeed().zero.GatheredParameters(list(parameters), modifier_rank=0)
        return gathered

    def state(self, *, keep: bool = True) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        out: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            found: dict[str, Tensor] = {}
            if self.low_precision:
                found[MASTER] = safe_get_full_fp32_param(parameter)
            if self._steps():
                found |= {kind: safe_get_full_optimizer_state(parameter, kind) for kind in MOMENTS}
                found["step"] = self._steps()[0]
            if keep:
                out |= {f"{kind}/{name}": value.detach().cpu().clone() for kind, value in found.items()}
        return out

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        found = by_parameter(state, self.parameters)
        steps = {float(kinds["step"]) for kinds in found.values() if "step" in kinds}
        for name, parameter in self.parameters.items():
            with self.whole([parameter]):
                master = found[name].get(MASTER, parameter.detach().float()).clone()
            safe_set_full_fp32_param(parameter, master.to(self.trained.device))
        if steps and not self._steps():
            self._make_moments()
        for name, parameter in self.parameters.items():
            for kind in MOMENTS:
                if kind in found[name]:
                    safe_set_full_optimizer_state(parameter, found[name][kind].to(self.trained.device), kind)
        for step in self._steps():
            step.fill_(max(steps, default=0.0))

    def _steps(self) -> list[Tensor]:
        """AdamW's counts of steps; none before the first."""
        return [state["step"] for state in self.optimizer.state.values() if "step" in state]

    @torch.enable_grad()
    def _make_moments(self) -> None:
        """They come to be in a step; this one has no gradient and so moves nothing."""
        self.engine.backward(self.trained.idle())
        self.step(1.0)


def prepare(device: str) -> Any:
    """DeepSpeed, with what it reads from the environment where nobody said otherwise. Before anything else imports it.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.startswith("cuda") else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # a worker sees its own GPU alone
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # DeepSpeed's calls
    return _deepspeed()


def deepspeed_config(settings: ZeroSettings, team: Team, *, bfloat16: bool) -> dict[str, Any]:
    """DeepSpeed's configuration: the settings, what the learner needs, and the user's options over its defaults."""
    zero: dict[str, Any] = {"stage": settings.stage}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    config: dict[str, Any] = {
        # These three only count samples: a micro-batch here is so many tokens, and a step as many as it takes.
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": team.size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
    }
    if bfloat16:
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return _merged(config, settings.options)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = deepcopy(dict(base))
    for key, value in over.items():
        out[key] = _merged(out[key], value) if isinstance(value, Mapping) and isinstance(out.get(key), dict) else value
    return out


def _deepspeed() -> Any:
    try:
        import deepspeed
        from deepspeed.ops import __compatible_ops__ as operators
    except ImportError:
        raise UserError("needs DeepSpeed: pip install 'rlrp[deepspeed]'", place="rl.zero") from None
    # On a CPU it would compile its reduction through shared memory, for minutes, which training does not use.
    operators["deepspeed_shm_comm"] = False
    return deepspeed

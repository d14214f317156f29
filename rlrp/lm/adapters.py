"""LoRA adapters: adding one to a model, moving its weights between processes, and merging them for sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlrp.errors import UserError

AdapterState = dict[str, Tensor]
"""PEFT's names (``base_model.model.….lora_A.weight``) to CPU tensors, as in ``adapter_model.safetensors``."""


@dataclass(frozen=True)
class LoraSettings:
    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"

    @property
    def scaling(self) -> float:
        return self.alpha / self.r


def add_lora(model: Any, settings: LoraSettings, *, seed: int) -> Any:
    """Wrap the model with a fresh adapter (which changes nothing yet: its B matrices are 0)."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, lora_config(settings))
    except ValueError as error:
        raise UserError(" ".join(str(error).split())[:300], place="lora.targets") from error
    sort_targets(adapted)
    return adapted


def sort_targets(model: Any) -> None:
    """PEFT keeps the names of what it adapted in a set, and would write them in another order in every process."""
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)


def lora_config(settings: LoraSettings) -> Any:
    """The settings as PEFT takes them."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets if isinstance(settings.targets, str) else list(settings.targets),
        task_type="CAUSAL_LM",
    )


def adapter_state(model: Any) -> AdapterState:
    """A copy of the adapter's weights on the CPU."""
    from peft import get_peft_model_state_dict

    return {name: t.detach().cpu().clone().contiguous() for name, t in get_peft_model_state_dict(model).items()}


def checksum(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes: equal exactly when every weight is."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)  # no copy: whole weights are many gigabytes
    return digest.hexdigest()


def is_lora(state: Mapping[str, Tensor]) -> bool:
    """Whether these are an adapter's weights; else they are the model's own."""
    return any(".lora_" in name for name in state)


def lora_modules(state: Mapping[str, Tensor]) -> list[str]:
    """PEFT's names of the modules that an adapter's state holds an A and a B matrix of.

    Raises:
        UserError: there is something else in it.
    """
    modules = [name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")]
    if len(modules) * 2 != len(state):
        odd = [name for name in state if ".lora_A." not in name and ".lora_B." not in name]
        raise UserError(
            f"not LoRA on linear layers alone: {', '.join(odd[:3]) or 'A and B matrices do not pair'}; leave "
            "embeddings and the vocabulary projection out",
            place="lora.targets",
        )
    return modules


def merge(base: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """The adapted weight [out, in], ``base + scaling * b @ a``: every engine that merges gets the same bits."""
    return torch.addmm(base, b, a, alpha=scaling)


class MergedAdapter:
    """A plain model whose weights are kept at base + adapter, so that sampling pays nothing for LoRA.

    The base weights of the adapted layers are kept aside and every merge starts from them, so nothing drifts however
    often it is synchronised. What ``checksum`` reports is what was merged last.
    """

    def __init__(self, model: Any, scaling: float):
        self.model = model
        self.scaling = scaling
        self.base: dict[str, Tensor] = {}
        self.held: AdapterState = {}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> str:
        """Merge an adapter; returns the checksum of what is held now."""
        modules = lora_modules(state)
        for name in self.base.keys() - set(modules):  # of an adapter that was wider
            self._weight(name).copy_(self.base[name])
        for name in modules:
            weight = self._weight(name)
            base = self.base.setdefault(name, weight.detach().clone())
            a, b = (state[f"{name}.lora_{part}.weight"].to(base) for part in "AB")
            weight.copy_(merge(base, a, b, self.scaling))
        self.held = {name: tensor.clone() for name, tensor in state.items()}
        return self.checksum()

    @torch.no_grad()
    def unload(self) -> None:
        """Back to the base weights."""
        for name, base in self.base.items():
            self._weight(name).copy_(base)
        self.held = {}

    def checksum(self) -> str:
        return checksum(self.held)

    def _weight(self, name: str) -> Tensor:
        layer = self.model.get_submodule(name.removeprefix("base_model.model."))
        if not isinstance(layer, torch.nn.Linear):
            raise UserError(
                f"{name} is a {type(layer).__name__}; only linear layers can be adapted", place="lora.targets"
            )
        return layer.weight

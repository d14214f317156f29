"""Our engine: the model in plain transformers, each prompt computed once per group where its attention allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlrp.lm.adapters import AdapterState, MergedAdapter, checksum, is_lora
from rlrp.lm.engines.settings import EngineSettings
from rlrp.lm.load import load_model
from rlrp.lm.sampling import Completion, Sampler, SampleRequest, SamplingSettings
from rlrp.lm.self_check import use_shared_prefix


class OurEngine:
    """The policy's weights, an adapter merged into them, and the sampler that reads them."""

    def __init__(self, settings: EngineSettings):
        self.sampler = load_sampler(settings)
        lm = self.sampler.lm
        self.adapter = MergedAdapter(lm.model, settings.scaling)
        self.chat, self.context = lm.chat, lm.context

    def load(self, state: AdapterState) -> str:
        self.forget()
        return self.adapter.load(state) if is_lora(state) else take(self.sampler.lm.model, state)

    def forget(self) -> None:
        self.sampler.forget()

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        return self.sampler.sample(requests, settings)


def load_sampler(settings: EngineSettings) -> Sampler:
    """The model as it comes, each prompt computed once per group if the settings say so."""
    lm = load_model(
        settings.model,
        chat_template=settings.chat_template,
        dtype=getattr(torch, settings.dtype),
        device=settings.device,
    )
    if settings.share_prefix:
        use_shared_prefix(lm.model)
    return Sampler(lm)


@torch.no_grad()
def take(model: Any, state: AdapterState) -> str:
    """Copy whole weights into a model; returns the checksum of what its parameters are now."""
    parameters = dict(model.named_parameters())
    if unknown := [name for name in state if name not in parameters]:
        raise ValueError(f"no parameter of the model: {', '.join(unknown[:3])}")
    for name, tensor in state.items():
        parameters[name].copy_(tensor)
    return checksum({name: parameters[name] for name in state})

"""The policy: the model that training moves, the anchor it is held to, and its weights as they are sent and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rlrp.lm.adapters import AdapterState, LoraSettings, adapter_state, add_lora, checksum
from rlrp.lm.frozen import speed_up_frozen_linears
from rlrp.lm.load import load_model
from rlrp.lm.self_check import use_shared_prefix


class Policy:
    """A model with a fresh LoRA adapter; the anchor is the same model with the adapter off."""

    def __init__(
        self,
        model: str,
        *,
        lora: LoraSettings,
        chat_template: str | None = None,
        share_prefix: bool = True,
        seed: int = 0,
        dtype: str = "float32",
        device: str = "cpu",
    ):
        lm = load_model(model, chat_template=chat_template, dtype=getattr(torch, dtype), device=device)
        self.share_prefix = share_prefix and use_shared_prefix(lm.model)
        self.model = add_lora(lm.model, lora, seed=seed)
        speed_up_frozen_linears(self.model)
        self.model.train()
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.tokenizer = lm.tokenizer

    @property
    def device(self) -> torch.device:
        device: torch.device = next(iter(self.parameters.values())).device
        return device

    @contextmanager
    def anchor(self) -> Iterator[Any]:
        """The model that the policy is held to; for forwards without gradients."""
        with torch.no_grad(), self.model.disable_adapter():
            yield self.model

    def weights(self) -> tuple[AdapterState, str]:
        """What a sampler needs to hold this policy, and its checksum."""
        state = adapter_state(self.model)
        return state, checksum(state)

    def save(self, folder: Path) -> None:
        """Weights and tokenizer, as vanilla PEFT loads them."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"))

"""The policy: the model that training moves, the anchor it is held to, and its weights as they are sent and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from rlrp.lm.adapters import AdapterState, LoraSettings, add_lora, checksum
from rlrp.lm.frozen import speed_up_frozen_linears
from rlrp.lm.load import LanguageModel, load_weights
from rlrp.lm.scoring import token_logprobs
from rlrp.lm.self_check import use_shared_prefix
from rlrp.rl.trained import IDLE, Root, T, Trained, Trunk, Whole, names_of_adapter

ADAPTER = "default"
"""PEFT's name for an adapter that is given none."""


class Policy(Trained):
    """A model with a fresh LoRA adapter, or (``lora`` None) all of whose weights are trained.

    The anchor is the same model with the adapter off, or (``anchor``) a second one that stays as it is. That one is
    loaded, not copied: what comes from a file as it is shares its pages with all workers of a machine.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        lora: LoraSettings | None,
        seed: int = 0,
        share_prefix: bool = True,
        anchor: LanguageModel | None = None,
        checkpointing: bool = False,
    ):
        self.share_prefix = share_prefix and use_shared_prefix(lm.model)
        self.tokenizer, self.lora = lm.tokenizer, lora
        anchors = {"anchor": Trunk.with_head(_frozen(anchor.model, self.share_prefix))} if anchor else {}
        self.model = lm.model.requires_grad_(True) if lora is None else add_lora(lm.model, lora, seed=seed)
        speed_up_frozen_linears(self.model)
        self.model.train()
        if checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        sent = parameters if lora is None else names_of_adapter(self.model, parameters, ADAPTER)
        super().__init__(Root(policy=Trunk.with_head(self.model), **anchors), parameters, sent)

    def with_policy(self, compute: Callable[[Any], T]) -> T:
        """``compute(model)`` with the policy."""
        return self.in_root(lambda trunks: cast(T, trunks["policy"](compute)))

    def with_anchor(self, compute: Callable[[Any], T]) -> T:
        """``compute(model)`` with what the policy is held to, without gradients."""
        with torch.no_grad():
            if self.lora is None:
                return self.in_root(lambda trunks: cast(T, trunks["anchor"](compute)))
            with self.model.disable_adapter():
                return self.with_policy(compute)

    def with_both(self, compute: Callable[[Any, Any], T]) -> T:
        """``compute(policy, anchor)``; with LoRA they are the same model, and the adapter is on."""
        if self.lora is not None:
            return self.with_policy(lambda model: compute(model, model))

        def both(trunks: Any) -> T:
            return cast(T, trunks["anchor"](lambda anchor: trunks["policy"](lambda model: compute(model, anchor))))

        return self.in_root(both)

    def idle(self) -> Tensor:
        return self.with_policy(lambda model: token_logprobs(model, IDLE).logp).sum() * 0.0

    def weights(self, whole: Whole, *, keep: bool = True) -> tuple[AdapterState | None, str]:
        """What a sampler needs to hold this policy, and its checksum; nothing if not ``keep``."""
        state = self.state(whole, keep=keep)
        return (state, checksum(state)) if keep else (None, "")

    def save(self, folder: Path, whole: Whole, *, keep: bool = True) -> None:
        """Weights and tokenizer, as vanilla PEFT or transformers load them."""
        state = self.state(whole, keep=keep)
        if keep:
            only = {} if self.lora is None else {"selected_adapters": [ADAPTER]}
            self.model.save_pretrained(folder, state_dict=self.inside(state), **only)
            self.tokenizer.save_pretrained(folder)

    def load(self, folder: Path, whole: Whole) -> None:
        """The weights of ``save``'s folder."""
        if self.lora is None:
            self.take(dict(load_weights(str(folder), str(folder), self.model.dtype).named_parameters()), whole)
        else:
            self.take(load_file(folder / "adapter_model.safetensors"), whole)


def _frozen(model: Any, share_prefix: bool) -> Any:
    if share_prefix:
        use_shared_prefix(model)
    model.requires_grad_(False)
    speed_up_frozen_linears(model)
    return model

"""The policy: the model that training moves, the anchor it is held to, and its weights as they are sent and saved.

Whatever computes with the models does so in :meth:`Policy.with_policy` and its like: where weights are spread over
several workers (ZeRO-3) they are whole inside, those that a computation takes from outside a module's own forward
(the projection to the vocabulary) included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rlrp.lm.adapters import AdapterState, LoraSettings, add_lora, checksum
from rlrp.lm.frozen import speed_up_frozen_linears
from rlrp.lm.load import LanguageModel, load_weights
from rlrp.lm.scoring import TokenGroup, token_logprobs
from rlrp.lm.self_check import use_shared_prefix

T = TypeVar("T")
Whole = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]
"""Within ``whole(parameters)`` their data are there in full, and what is written to them stays."""


IDLE = [TokenGroup((0,), ((0,),))]
"""The least that can go through a model."""


class Trunk(nn.Module):
    """A model whose forward is any computation with it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[Any], T]) -> T:
        return compute(self.model)


class Root(nn.Module):
    """The trainable model and, for full weights, the anchor's: what an engine spreads over workers as one module."""

    def __init__(self, trainable: Trunk, anchor: Trunk | None):
        super().__init__()
        self.trainable, self.anchor = trainable, anchor

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


class Policy:
    """A model with a fresh LoRA adapter, or (``lora`` None) all of whose weights are trained.

    The anchor is the same model with the adapter off, or (``anchor``) a second one that stays as it is.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        lora: LoraSettings | None,
        seed: int = 0,
        share_prefix: bool = True,
        anchor: bool = True,
        checkpointing: bool = False,
    ):
        self.share_prefix = share_prefix and use_shared_prefix(lm.model)
        self.tokenizer, self.lora = lm.tokenizer, lora
        reference = Trunk(_frozen(copy.deepcopy(lm.model))) if anchor and lora is None else None
        self.model = lm.model.requires_grad_(True) if lora is None else add_lora(lm.model, lora, seed=seed)
        speed_up_frozen_linears(self.model)
        self.model.train()
        if checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.sent = self._named_as_sent()
        self.root: nn.Module = Root(Trunk(self.model), reference)
        self.device = next(iter(self.parameters.values())).device

    def _named_as_sent(self) -> dict[str, nn.Parameter]:
        """The trained parameters by their names in a checkpoint, which are not PEFT's within the model."""
        if self.lora is None:
            return dict(self.parameters)
        from peft import get_peft_model_state_dict

        return cast(dict[str, nn.Parameter], get_peft_model_state_dict(self.model, state_dict=dict(self.parameters)))

    # -- computing -------------------------------------------------------------------------------------------------

    def with_policy(self, compute: Callable[[Any], T]) -> T:
        """``compute(model)`` with the policy."""
        return self._in_root(lambda root: cast(T, root.trainable(compute)))

    def with_anchor(self, compute: Callable[[Any], T]) -> T:
        """``compute(model)`` with what the policy is held to, without gradients."""
        with torch.no_grad():
            if self.lora is None:
                return self._in_root(lambda root: cast(T, root.anchor(compute)))
            with self.model.disable_adapter():
                return self.with_policy(compute)

    def with_both(self, compute: Callable[[Any, Any], T]) -> T:
        """``compute(policy, anchor)``; with LoRA they are the same model, and the adapter is on."""
        if self.lora is not None:
            return self.with_policy(lambda model: compute(model, model))

        def both(root: Any) -> T:
            return cast(T, root.anchor(lambda anchor: root.trainable(lambda model: compute(model, anchor))))

        return self._in_root(both)

    def idle(self) -> Tensor:
        """A loss of 0 that all weights have a part in: for who has less to do than others it computes with."""
        return self.with_policy(lambda model: token_logprobs(model, IDLE).logp).sum() * 0.0

    def _in_root(self, compute: Callable[[Any], T]) -> T:
        root = getattr(self.root, "module", self.root)  # an engine wraps it
        return cast(T, self.root(lambda: compute(root)))

    # -- weights ---------------------------------------------------------------------------------------------------

    def state(self, whole: Whole, *, keep: bool = True) -> AdapterState:
        """Copies of the trained weights on the CPU, as samplers take them; nothing is kept if not ``keep``."""
        state = {}
        for name, parameter in self.sent.items():
            with whole([parameter]):
                if keep:
                    state[name] = parameter.detach().cpu().clone().contiguous()
        return state

    def weights(self, whole: Whole, *, keep: bool = True) -> tuple[AdapterState | None, str]:
        """What a sampler needs to hold this policy, and its checksum."""
        state = self.state(whole, keep=keep)
        return (state, checksum(state)) if keep else (None, "")

    def save(self, folder: Path, whole: Whole, *, keep: bool = True) -> None:
        """Weights and tokenizer, as vanilla PEFT or transformers load them."""
        state = self.state(whole, keep=keep)
        if keep:
            inner = {id(parameter): name for name, parameter in self.parameters.items()}
            inside = {inner[id(self.sent[name])]: tensor for name, tensor in state.items()}
            self.model.save_pretrained(folder, state_dict=inside)
            self.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def load(self, folder: Path, whole: Whole) -> None:
        """The weights of ``save``'s folder."""
        if self.lora is None:
            state = dict(load_weights(str(folder), str(folder), self.model.dtype).named_parameters())
        else:
            state = load_file(folder / "adapter_model.safetensors")
        for name, parameter in self.sent.items():
            with whole([parameter]):
                parameter.copy_(state[name])


def _frozen(model: Any) -> Any:
    model.requires_grad_(False)
    speed_up_frozen_linears(model)
    return model

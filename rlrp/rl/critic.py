"""PPO's critic: a value head on a language model's hidden states, evaluated over the shared prefix like the policy.

The model is the policy's own base under a second adapter, whose weights nothing but the critic's loss moves, or a
model of its own. Left out here: advantages and the critic's loss (``rlrp.rl.ppo``), and the optimizer, which is the
learner's. Shapes: S tokens of all completions end to end, C hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlrp.errors import UserError
from rlrp.lm.adapters import LoraSettings, add_lora, lora_config, sort_targets
from rlrp.lm.frozen import speed_up_frozen_linears
from rlrp.lm.load import load_model
from rlrp.lm.scoring import TokenGroup, completion_hidden
from rlrp.lm.self_check import use_shared_prefix
from rlrp.rl.policy import ADAPTER, Policy
from rlrp.rl.trained import IDLE, Root, Trained, Trunk, Whole, names_of_adapter

NAME = "critic"
"""The adapter's name beside the policy's, and the folder in a checkpoint."""
HEAD_SPREAD = 0.01
"""Standard deviation of the head's first weights: values begin near 0, and yet gradients reach the adapter."""


@dataclass(frozen=True)
class CriticSettings:
    """See ``rl.critic`` in ``rlrp.config``."""

    model: str | None = None
    lora: LoraSettings = field(default_factory=LoraSettings)
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    value_clip: float | None = 0.2
    gamma: float = 1.0
    lam: float = 0.95


class ValueHead(nn.Module):
    """``w · h / sqrt(C) + b`` in float32; with the root, Adam's steps move values alike whatever the model's width."""

    def __init__(self, hidden_size: int, *, seed: int, device: torch.device):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter((torch.randn(hidden_size, generator=generator) * HEAD_SPREAD).to(device))
        self.bias = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, hidden_SC: Tensor) -> Tensor:
        """A value [S] for each hidden state."""
        value_S: Tensor = hidden_SC.float() @ self.weight.float() / len(self.weight) ** 0.5 + self.bias.float()
        return value_S


class Critic(Trained):
    """Predicts at every completion token the reward still to come, from the text before it."""

    def __init__(
        self,
        settings: CriticSettings,
        policy: Policy,
        *,
        dtype: str,
        seed: int,
        chat_template: str | None = None,
    ):
        self.settings = settings
        self.own = settings.model is not None
        if policy.lora is None and not self.own:
            raise UserError(
                "got null where all of the policy's weights are trained: no base stays as it is for an adapter; name a "
                "model for the critic",
                place="rl.critic.model",
            )
        self.model = _own_model(settings, policy, dtype, seed, chat_template) if self.own else policy.model
        if not self.own:
            torch.manual_seed(seed)
            # Once speed_up_frozen_linears has been through the policy: it must not take this adapter for frozen.
            self.model.add_adapter(NAME, lora_config(settings.lora))
            sort_targets(self.model)
            self.model.train()
        hidden_size = self.model.get_input_embeddings().embedding_dim
        self.head = ValueHead(hidden_size, seed=seed, device=policy.device)
        with self.active():
            adapter = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        head = {f"head.{n}": p for n, p in self.head.named_parameters()}
        sent = names_of_adapter(self.model, adapter, self.adapter) | head
        root = Root(critic=Trunk(self.model), head=Trunk(self.head))
        super().__init__(root, adapter | head, sent)

    @property
    def adapter(self) -> str:
        """Its name in the model."""
        return ADAPTER if self.own else NAME

    @contextmanager
    def active(self) -> Iterator[None]:
        """The critic's adapter in the policy's place: for its forward passes and the backward passes through them,
        as PEFT freezes what is not active."""
        if self.own:
            yield
            return
        policy = self.model.active_adapter
        self.model.set_adapter(NAME)
        try:
            yield
        finally:
            self.model.set_adapter(policy)

    def values(self, groups: Sequence[TokenGroup]) -> Tensor:
        """The value [S] of the text before each completion token, in units of the reward; while ``active``."""

        def values(trunks: Any) -> Any:
            hidden_SC = trunks["critic"](lambda model: completion_hidden(model, groups))
            return trunks["head"](lambda head: head(hidden_SC))

        values_S: Tensor = self.in_root(values)
        return values_S

    def idle(self) -> Tensor:
        return self.values(IDLE).sum() * 0.0

    def save(self, folder: Path, whole: Whole, *, keep: bool = True) -> None:
        """``folder/critic``: the adapter, as PEFT loads it, and the head."""
        state = self.state(whole, keep=keep)
        if not keep:
            return
        head = {name: state.pop(name) for name in list(state) if name.startswith("head.")}
        into = folder / NAME if self.own else folder
        self.model.save_pretrained(into, state_dict=self.inside(state), selected_adapters=[self.adapter])
        save_file(
            {name.removeprefix("head."): tensor for name, tensor in head.items()}, folder / NAME / "head.safetensors"
        )

    def load(self, folder: Path, whole: Whole) -> None:
        head = load_file(folder / NAME / "head.safetensors")
        state = load_file(folder / NAME / "adapter_model.safetensors")
        self.take(state | {f"head.{name}": tensor for name, tensor in head.items()}, whole)


def _own_model(settings: CriticSettings, policy: Policy, dtype: str, seed: int, chat_template: str | None) -> Any:
    """A model of the critic's own under an adapter; its base stays as it is.

    Raises:
        UserError: it reads other tokens than the policy writes.
    """
    assert settings.model is not None
    lm = load_model(settings.model, chat_template=chat_template, dtype=getattr(torch, dtype), device=policy.device)
    if lm.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise UserError("its tokenizer is not the policy's; use a model of the same family", place="rl.critic.model")
    if policy.share_prefix:
        use_shared_prefix(lm.model)
    model = add_lora(lm.model, settings.lora, seed=seed)
    speed_up_frozen_linears(model)
    return model.train()

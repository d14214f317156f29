"""What an engine moves: weights, the modules they lie in, and how to compute with them.

Whatever computes with a model does so inside its root's forward: where weights are spread over several workers (ZeRO-3)
they are whole there, those that a computation takes from outside a module's own forward included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from rlrp.lm.adapters import AdapterState
from rlrp.lm.scoring import TokenGroup

T = TypeVar("T")
Whole = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]
"""Within ``whole(parameters)`` their data are there in full, and what is written to them stays."""
IDLE = [TokenGroup((0,), ((0,),))]
"""The least that can go through a model."""


class Trunk(nn.Module):
    """A model whose forward is any computation with it; ``borrowed`` weights of it are used as they lie."""

    def __init__(self, model: nn.Module, borrowed: Sequence[nn.Parameter] = ()):
        super().__init__()
        self.model = model
        self.borrowed = tuple(borrowed)

    @classmethod
    def with_head(cls, model: Any) -> Trunk:
        """For computations that project to the vocabulary."""
        return cls(model, [model.get_output_embeddings().weight])

    def forward(self, compute: Callable[[Any], T]) -> T:
        return compute(self.model)


class Root(nn.Module):
    """Trunks by name: what an engine spreads over workers as one module."""

    def __init__(self, **trunks: Trunk):
        super().__init__()
        self.trunks = nn.ModuleDict(trunks)

    def forward(self, compute: Callable[[Mapping[str, Any]], T]) -> T:
        return compute(self.trunks)  # type: ignore[arg-type]  # a mapping but by name


class Trained:
    """``parameters`` by their names within the module, ``sent`` the same by their names in a checkpoint."""

    def __init__(self, root: nn.Module, parameters: Mapping[str, nn.Parameter], sent: Mapping[str, nn.Parameter]):
        self.root, self.parameters, self.sent = root, dict(parameters), dict(sent)
        self.device = next(iter(self.parameters.values())).device

    def in_root(self, compute: Callable[[Mapping[str, Any]], T]) -> T:
        """``compute(trunks)`` in the root's forward."""
        return cast(T, self.root(compute))

    def idle(self) -> Tensor:
        """A loss of 0 that all weights have a part in: for who has less to do than others it computes with."""
        raise NotImplementedError

    def state(self, whole: Whole, *, keep: bool = True) -> AdapterState:
        """Copies of the weights on the CPU by their names in a checkpoint; nothing is kept if not ``keep``."""
        state = {}
        for name, parameter in self.sent.items():
            with whole([parameter]):
                if keep:
                    state[name] = parameter.detach().cpu().clone().contiguous()
        return state

    @torch.no_grad()
    def take(self, state: Mapping[str, Tensor], whole: Whole) -> None:
        """Weights by their names in a checkpoint, in the place of what is there."""
        for name, parameter in self.sent.items():
            with whole([parameter]):
                parameter.copy_(state[name])

    def inside(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's weights by their names within the module, as ``save_pretrained`` takes them."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        return {names[id(self.sent[name])]: tensor for name, tensor in state.items()}


def names_of_adapter(model: Any, parameters: Mapping[str, nn.Parameter], adapter: str) -> dict[str, nn.Parameter]:
    """An adapter's parameters by the names that PEFT gives them in a checkpoint."""
    from peft import get_peft_model_state_dict

    named = get_peft_model_state_dict(model, state_dict=dict(parameters), adapter_name=adapter)
    return cast(dict[str, nn.Parameter], named)

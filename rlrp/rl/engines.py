"""What moves parameters along their gradients, behind one small interface: here plain torch in one process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

MASTER = "master"
"""The kind, in an optimizer's state, of float32 copies of weights that are trained in a lower precision."""


class Engine(Protocol):
    """Gradients are summed over as many ``backward`` calls as it takes; ``step`` uses them up."""

    @property
    def learning_rate(self) -> float: ...

    @learning_rate.setter
    def learning_rate(self, value: float) -> None: ...

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient; what several workers add is summed."""
        ...

    def step(self, max_norm: float, *, finite: bool = True) -> tuple[float, bool]:
        """Clip and move, unless the gradient or (``finite`` false) the loss it came from is not finite.

        Returns:
            The gradient's norm before clipping, and whether the parameters were moved.
        """
        ...

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
        """Within, the parameters' data are there in full; what all workers write to them stays."""
        ...

    def state(self, *, keep: bool = True) -> dict[str, Tensor]:
        """The optimizer's state by ``kind/parameter`` (``exp_avg/…``): whole tensors on the CPU, nothing if not
        ``keep``. All workers must call it."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back, and the parameters as they are now."""
        ...


class TorchEngine:
    """AdamW over named parameters in this process. For parameters below float32 it moves float32 copies of them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], learning_rate: float):
        self.parameters = dict(parameters)
        self.moved = {name: self._moved(parameter) for name, parameter in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(self.moved.values(), lr=learning_rate, weight_decay=0.0)

    @staticmethod
    def _moved(parameter: nn.Parameter) -> nn.Parameter:
        """The parameter itself, or its float32 copy, in which its gradients are summed."""
        if parameter.dtype == torch.float32:
            return parameter
        master = nn.Parameter(parameter.detach().float())

        def collect(_: Tensor) -> None:
            assert parameter.grad is not None
            gradient, parameter.grad = parameter.grad.float(), None
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)

        parameter.register_post_accumulate_grad_hook(collect)
        return master

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @torch.no_grad()
    def step(self, max_norm: float, *, finite: bool = True) -> tuple[float, bool]:
        norm = float(nn.utils.clip_grad_norm_(self.moved.values(), max_norm))
        moves = finite and math.isfinite(norm)
        if moves:
            self.optimizer.step()
            for parameter, master in self._with_masters():
                parameter.copy_(master)
        self.optimizer.zero_grad(set_to_none=True)
        return norm, moves

    def _with_masters(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        for name, parameter in self.parameters.items():
            if self.moved[name] is not parameter:
                yield parameter, self.moved[name]

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
        return nullcontext()

    def state(self, *, keep: bool = True) -> dict[str, Tensor]:
        out = {}
        for name, parameter in self.parameters.items():
            moved = self.moved[name]
            kept = {MASTER: moved} if moved is not parameter else {}
            for kind, value in (kept | self.optimizer.state.get(moved, {})).items():
                out[f"{kind}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        return out if keep else {}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, found in by_parameter(state, self.parameters).items():
            moved = self.moved[name]
            if moved is not self.parameters[name]:
                moved.copy_(found.pop(MASTER, self.parameters[name]))
            if found:
                self.optimizer.state[moved] = {
                    kind: value if kind == "step" else value.to(moved) for kind, value in found.items()
                }


def by_parameter(state: Mapping[str, Tensor], names: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """``kind/parameter`` keys as a mapping per parameter, empty for one that the state does not know."""
    found: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        if name in found:
            found[name][kind] = value
    return found

"""What moves parameters along their gradients, behind one small interface: here plain torch in one process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Engine(Protocol):
    """Gradients are summed over as many ``backward`` calls as it takes; ``step`` uses them up."""

    @property
    def learning_rate(self) -> float: ...

    @learning_rate.setter
    def learning_rate(self, value: float) -> None: ...

    def backward(self, loss: Tensor) -> None: ...

    def step(self, max_norm: float, *, finite: bool = True) -> tuple[float, bool]:
        """Clip and move, unless the gradient or (``finite`` false) the loss it came from is not finite.

        Returns:
            The gradient's norm before clipping, and whether the parameters were moved.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """The optimizer's state by ``kind/parameter`` (``exp_avg/…``), whole tensors on the CPU."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


class TorchEngine:
    """AdamW over named parameters in this process."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], learning_rate: float):
        self.parameters = dict(parameters)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=learning_rate, weight_decay=0.0)

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, max_norm: float, *, finite: bool = True) -> tuple[float, bool]:
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), max_norm))
        moves = finite and math.isfinite(norm)
        if moves:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, moves

    def state(self) -> dict[str, Tensor]:
        return {
            f"{key}/{name}": torch.as_tensor(value).detach().cpu().contiguous()
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            found = {key.partition("/")[0]: value for key, value in state.items() if key.partition("/")[2] == name}
            if found:
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter) for key, value in found.items()
                }

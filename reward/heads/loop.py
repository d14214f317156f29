"""The training loop of the heads that are trained by gradients, and their calibration.

Left out: evaluation between epochs and early stopping; the data are small and the epochs few.
Shapes: N examples, B replies of a step, K = 1 + faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reward.heads.examples import Targets, drawn
from reward.heads.faults import fault_parts, named_faults
from reward.heads.settings import HeadOptions
from reward.linear import platt, sigmoid
from reward.negatives import Example
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.progress import progress
from rlrp.protocols import TermScore

Floats = NDArray[np.float32]
Forward = Callable[[Sequence[Sample]], Iterator[tuple[list[int], Tensor]]]
"""Samples to parts of at most a token budget: the places of some samples, and their logits (B, K)."""
_FAULT_SHARE = 0.3
"""The weight of a fault's loss beside that of being in role."""
_MOST = 4.0
"""How many times the mean a row may count in a column: faults with few examples must not make the steps jump."""
_WARMUP, _CLIP = 0.1, 1.0


def pick_device(name: str) -> torch.device:
    """The device of a name; ``auto`` takes a GPU where there is one.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"got {name!r}: {str(error).splitlines()[0][:120]}", place="reward.head_options.device"
        ) from None


def optimise(
    forward: Forward,
    parameters: Sequence[torch.nn.Parameter],
    examples: Sequence[Example],
    faults: Sequence[str],
    options: HeadOptions,
    *,
    learning_rate: float,
    seed: int,
    title: str,
) -> list[float]:
    """Move the parameters; returns the mean loss of every epoch.

    Raises:
        UserError: the loss is not finite.
    """
    torch.manual_seed(seed)
    epochs = [drawn(examples, negatives=options.negatives, seed=seed, epoch=epoch) for epoch in range(options.epochs)]
    steps = sum(-(-len(order) // options.batch) for order in epochs)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    warmup = max(1, round(_WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    losses = []
    with progress(title, sum(map(len, epochs))) as advance:
        for order in epochs:
            labels, weights = _of_epoch([examples[at] for at in order], faults)
            total = 0.0
            for start in range(0, len(order), options.batch):
                rows = slice(start, start + options.batch)
                samples = [examples[at].sample for at in order[rows]]
                loss = _step(forward, samples, labels[rows], weights[rows])
                if not np.isfinite(loss):
                    raise UserError(f"the loss is {loss}; take a lower one", place="reward.head_options.learning_rate")
                torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
                total += loss * len(samples)
                advance(len(samples))
            losses.append(round(total / len(order), 4))
    return losses


def _of_epoch(examples: Sequence[Example], faults: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Labels and weights (N, K) of what was drawn: by weight, so that each counts alike within its class."""
    targets = Targets.of([replace(example, weight=1.0) for example in examples], faults)
    weights = np.minimum(targets.weights * len(examples), _MOST)
    weights[:, 1:] *= _FAULT_SHARE
    return torch.from_numpy(targets.labels), torch.from_numpy(weights)


def _step(forward: Forward, samples: Sequence[Sample], labels: Tensor, weights: Tensor) -> float:
    """Add up the gradients of the batch's mean loss, part by part."""
    total = 0.0
    for places, logits in forward(samples):
        own, weight = (tensor[places].to(logits.device) for tensor in (labels, weights))
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), own, reduction="none")
        loss = (losses * weight).sum() / len(samples)
        loss.backward()
        total += loss.item()
    return total


@torch.no_grad()
def logits_of(forward: Forward, samples: Sequence[Sample], columns: int) -> Floats:
    """The logits of all samples, (N, K)."""
    found = np.zeros((len(samples), columns), np.float32)
    for places, logits in forward(samples):
        found[places] = logits.float().cpu().numpy()
    return found


def calibrate(logits: Floats, examples: Sequence[Example], faults: Sequence[str]) -> Floats:
    """Platt's slope and offset of every column, (K, 2), on examples of characters that were left out."""
    targets = Targets.of(examples, faults)
    found = []
    for column in range(logits.shape[1]):
        told = targets.weights[:, column] > 0
        labels = targets.labels[told, column].astype(np.int64)
        # Weights in the size that scikit-learn's penalty expects: one for each example.
        weights = targets.weights[told, column] * told.sum()
        found.append(platt(logits[told, column], labels, weights))
    return np.array(found, np.float32)


@dataclass(frozen=True)
class Verdicts:
    """Calibrated logits as scores."""

    kind: str
    faults: tuple[str, ...]
    platt: Floats

    def scores(self, logits: Floats) -> list[TermScore]:
        """One a row of ``logits``; parts are ``log_odds`` and the faults."""
        odds = np.nan_to_num(logits * self.platt[:, 0] + self.platt[:, 1]).astype(np.float32)
        values = sigmoid(odds)
        return [self._score(odds[at], values[at]) for at in range(len(odds))]

    def _score(self, odds: Floats, values: Floats) -> TermScore:
        faults = dict(zip(self.faults, map(float, values[1:]), strict=True))
        verdict = "in role" if values[0] >= 0.5 else "not in role"
        reason = f"in_character: {values[0]:.0%}, {verdict} ({self.kind}){named_faults(faults)}"
        return TermScore(float(values[0]), (reason,), {"log_odds": float(odds[0]), **fault_parts(faults)})

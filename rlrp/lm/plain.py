"""Sampling with a model that cannot share prompts: transformers' ``generate`` keeps its state, the draws stay ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

Draw = Callable[[Tensor, int], tuple[list[int], list[float]]]
"""Tokens and log-probabilities for logits [G, V] at a place of the completion."""


class _Ours(LogitsProcessor):  # type: ignore[misc]  # transformers is not followed
    """Draws with our random streams and leaves ``generate`` no choice: everything else gets -inf.

    Rows that are finished are given the token that ends them again and again, so ``generate`` stops with the last.
    """

    def __init__(self, draw: Draw, rows: int, end: int, finished: Callable[[Sequence[int], Sequence[float]], bool]):
        self.draw, self.end, self.finished = draw, end, finished
        self.ids: list[list[int]] = [[] for _ in range(rows)]
        self.logps: list[list[float]] = [[] for _ in range(rows)]
        self.done = [False] * rows
        self.place = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens, logps = self.draw(scores, self.place)
        self.place += 1
        for row, (token, logp) in enumerate(zip(tokens, logps, strict=True)):
            if self.done[row]:
                tokens[row] = self.end
                continue
            self.ids[row].append(token)
            self.logps[row].append(logp)
            self.done[row] = self.finished(self.ids[row], self.logps[row])
        forced = torch.full_like(scores, -torch.inf)
        forced[torch.arange(len(tokens)), torch.tensor(tokens, device=scores.device)] = 0.0
        return forced


def generate_plainly(
    model: Any,
    prompt: Sequence[int],
    draw: Draw,
    *,
    rows: int,
    max_new_tokens: int,
    finished: Callable[[Sequence[int], Sequence[float]], bool],
) -> list[tuple[list[int], list[float]]]:
    """Token ids and log-probabilities of ``rows`` completions of one prompt."""
    if rows == 0:
        return []
    ids = torch.tensor([prompt], device=model.device).repeat(rows, 1)
    ours = _Ours(draw, rows, int(prompt[-1]), finished)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        min_new_tokens=None,
        eos_token_id=None,
        pad_token_id=0,
        logits_processor=LogitsProcessorList([ours]),
        stopping_criteria=[lambda *_, **__: torch.tensor(ours.done, device=ids.device)],
    )
    return list(zip(ours.ids, ours.logps, strict=True))

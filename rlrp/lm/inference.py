"""A model made ready for drawing: its fastest exact form for as long as its weights stay as they are.

Shapes: L packed tokens, C hidden size, N rows, V vocabulary.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlrp.lm.lean import LeanDecoder, lean_decoder
from rlrp.lm.packed import Packed, packed_linears
from rlrp.lm.scoring import output_head
from rlrp.lm.shared_prefix import decoder_of, pack, packed_inputs, packed_row

Forward = Callable[[Tensor, Tensor, Any], Tensor]
"""Token ids and positions [1, L] and a layout to the last hidden states [L, C]."""

# What the comparison on first use said of a model.
_agrees: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Inference:
    """What a sampler needs of a model that shares prompts."""

    device: torch.device
    hidden: Forward
    head: Callable[[Tensor], Tensor]
    softcap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, V] for hidden states [N, C]."""
        logits = self.head(hidden)
        return torch.tanh(logits / self.softcap) * self.softcap if self.softcap else logits


@contextmanager
def inference(model: Any) -> Iterator[Inference]:
    """The model for as long as rows are drawn: its weights must not change within.

    Llama's relatives run written out (``rlrp.lm.lean``) once that agreed with their own modules; the others, and
    whatever is not float32 on a CPU, run through their own, on packed weights where those can be had.
    """
    head, cap = output_head(model)
    device = next(model.parameters()).device
    lean = None if _agrees.get(model) is False else lean_decoder(model)
    if lean is not None and model not in _agrees:
        _agrees[model] = _compare(model, lean)
    if lean is not None and _agrees[model] and type(head) is nn.Linear:
        yield Inference(device, lean, Packed(head), cap)
        return
    del lean
    with packed_linears(model):
        yield Inference(device, own_forward(model), head, cap)


def own_forward(model: Any) -> Forward:
    """The decoder through transformers' modules."""
    decoder = decoder_of(model)

    def forward(ids: Tensor, positions: Tensor, layout: Any) -> Tensor:
        with packed_row():
            out = decoder(input_ids=ids, position_ids=positions, use_cache=False, shared=layout)
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    return forward


def _compare(model: Any, lean: LeanDecoder) -> bool:
    """Whether both forms give the same hidden states for one packed row; says so if not."""
    vocabulary = model.get_input_embeddings().num_embeddings
    prompt, replies = [(7 * i + 3) % vocabulary for i in range(24)], [[1, 5, 9], [2]]
    inputs = packed_inputs([prompt], [replies], next(model.parameters()).device)
    own, ours = (form(*inputs, pack([prompt], [replies])) for form in (own_forward(model), lean))
    gap = float((own - ours).abs().max() / own.abs().max())
    if gap > 1e-4:
        print(
            f"warning: {type(model).__name__} is not built like its family ({gap:.1g} off); it runs through its own "
            "modules: same results, slower",
            file=sys.stderr,
            flush=True,
        )
    return gap <= 1e-4

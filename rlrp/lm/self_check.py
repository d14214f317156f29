"""Whether a model can share prompts: one packed batch against its own plain forward, on first use."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from rlrp.errors import UserError
from rlrp.lm.scoring import TokenGroup, token_logprobs
from rlrp.lm.shared_prefix import NAME, shares_prefix


def use_shared_prefix(model: Any) -> bool:
    """Switch a transformers model to our attention; without a layout it still runs plain SDPA.

    An architecture that a packed row cannot carry (recurrent or chunked layers, attention sinks, an attention of its
    own) keeps its own attention: one warning says why, and whatever samples or scores with it takes the plain path.

    Returns:
        Whether prompts are shared.

    Raises:
        UserError: the model makes its logits otherwise than by its output projection (scaled logits), so that our
            log-probabilities would be wrong on either path.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = tuple((11 * i + 1) % vocabulary for i in range(11))
    probe = TokenGroup(ids[:6], (ids[6:9], ids[9:]))
    own = _own_logprobs(model, probe)
    if gap := _gap(model, own, _ours(model, probe)):
        raise UserError(
            f"{type(model).__name__} makes its logits otherwise than by its output projection ({gap}); use another "
            "model",
            place="model",
        )
    before = model.config._attn_implementation
    why = _cannot_share(model, probe, own)
    if why is None:
        return True
    model.set_attn_implementation(before)
    print(
        f"warning: {type(model).__name__} cannot share prompts ({why}); the plain path is taken: same results, slower",
        file=sys.stderr,
        flush=True,
    )
    return False


def _cannot_share(model: Any, probe: TokenGroup, own: Tensor) -> str | None:
    """Switches the model, and says what keeps it from sharing prompts if anything does."""
    kinds = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"it has layers of {', '.join(sorted(kinds))}"
    try:
        model.set_attn_implementation(NAME)
        if not shares_prefix(model):
            return "it does not use transformers' attention interface"
        return _gap(model, own, _ours(model, probe))
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}"


@torch.no_grad()
def _ours(model: Any, probe: TokenGroup) -> Tensor:
    return token_logprobs(model, [probe]).logp


@torch.no_grad()
def _own_logprobs(model: Any, probe: TokenGroup) -> Tensor:
    """Each [prompt; completion] through the model as a whole, its own logits at the end."""
    parts = []
    for completion in probe.completions:
        ids = torch.tensor([[*probe.prompt, *completion]], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(probe.prompt) - 1 : -1].float()
        parts.append(logits.log_softmax(-1).gather(1, ids[0, len(probe.prompt) :, None])[:, 0])
    return torch.cat(parts)


def _gap(model: Any, own: Tensor, ours: Tensor) -> str | None:
    """How far apart they are, if that is more than rounding."""
    gap = float((own - ours).abs().mean())
    within = gap <= (1e-3 if model.dtype == torch.float32 else 0.25)
    return None if within else f"log-probabilities differ from its own by {gap:.2g} nats a token"

"""Log-probabilities of completions, each prompt computed once per group, the vocabulary projected in chunks.

Shapes: L packed tokens, S scored tokens (all completions of all groups, end to end), C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from rlrp.lm.frozen import product
from rlrp.lm.shared_prefix import decoder_of, pack, packed_inputs, packed_row, shares_prefix

CHUNK_BYTES = 16 << 20
"""What one chunk of logits may take on a CPU, so that it stays in its cache; [S, V] never exists for the batch."""
CHUNK_ROWS = {"cpu": 128, "cuda": 1024}
"""Rows of a chunk at least: with fewer the projection's weights are read more often than used."""
WORTH_SHARING = 1.3
"""Token ratio below which a group is computed completion by completion: the same numbers, less bookkeeping."""


@dataclass(frozen=True)
class TokenGroup:
    """A prompt's token ids and those of its completions."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    @property
    def scored_tokens(self) -> int:
        return sum(len(completion) for completion in self.completions)

    @property
    def token_ratio(self) -> float:
        """How many times more tokens go through the model when every completion has its own copy of the prompt."""
        alone = len(self.prompt) * sum(1 for completion in self.completions if completion) + self.scored_tokens
        return alone / max(1, len(self.prompt) + self.scored_tokens)

    def packed_tokens(self, share_prefix: bool = True) -> int:
        """Tokens that go through the model for this group."""
        copies = 1 if share_prefix else len(self.completions)
        return copies * len(self.prompt) + self.scored_tokens


@dataclass
class TokenScores:
    """Per scored token, completions end to end: log-probability [S] and, on demand, entropy [S] in nats."""

    logp: Tensor
    entropy: Tensor | None = None


def token_logprobs(
    model: Any,
    groups: Sequence[TokenGroup],
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> TokenScores:
    """Log-probabilities of every completion token given its prompt, at a sampling temperature.

    Gradients flow to whatever parameters require them; wrap in ``torch.no_grad`` for scoring alone. Empty
    completions contribute no tokens. Each prompt is computed once where ``use_shared_prefix`` switched the model.
    """
    hidden_SC = completion_hidden(model, groups)
    head, cap = output_head(model)
    targets_S = torch.tensor([t for g in groups for c in g.completions for t in c], device=hidden_SC.device)
    return project(hidden_SC, head, targets_S, temperature=temperature, entropy=entropy, softcap=cap)


def completion_hidden(model: Any, groups: Sequence[TokenGroup]) -> Tensor:
    """The decoder's last hidden states [S, C] at the positions that predict each completion token."""
    if not any(group.scored_tokens for group in groups):
        return _no_hidden(model)
    if not shares_prefix(model):
        return plain_hidden(model, groups)
    # A group that shares little is laid out as whole sequences: plain causal attention, no bookkeeping.
    prefixes: list[list[int]] = []
    suffixes: list[list[list[int]]] = []
    picks: list[int] = []
    start = 0
    for group in groups:
        if not group.prompt:
            raise ValueError("a prompt needs at least one token")
        shared = group.token_ratio >= WORTH_SHARING
        if shared:
            # The last token of a completion predicts nothing that is scored: it need not go through the model.
            prefixes.append(list(group.prompt))
            suffixes.append([list(completion[:-1]) for completion in group.completions])
            opening, start = start + len(group.prompt) - 1, start + len(group.prompt)
        for completion in group.completions:
            if not completion:
                continue
            if not shared:
                prefixes.append([*group.prompt, *completion[:-1]])
                suffixes.append([])
                opening, start = start + len(group.prompt) - 1, start + len(group.prompt)
            picks += [opening, *range(start, start + len(completion) - 1)]
            start += len(completion) - 1
    device = next(model.parameters()).device
    layout = pack(prefixes, suffixes)
    ids, positions = packed_inputs(prefixes, suffixes, device)
    with packed_row():
        out = decoder_of(model)(input_ids=ids, position_ids=positions, use_cache=False, shared=layout)
    hidden: Tensor = out.last_hidden_state[0, torch.tensor(picks, dtype=torch.long, device=device)]
    return hidden


def _no_hidden(model: Any) -> Tensor:
    device = next(model.parameters()).device
    return torch.zeros(0, model.get_input_embeddings().embedding_dim, dtype=model.dtype, device=device)


def plain_hidden(model: Any, groups: Sequence[TokenGroup]) -> Tensor:
    """The same by the model's own forward of every [prompt; completion] alone: for whatever cannot share."""
    device = next(model.parameters()).device
    parts = []
    for prompt, completion in [(g.prompt, c) for g in groups for c in g.completions if c]:
        ids = torch.tensor([[*prompt, *completion[:-1]]], device=device)
        out = decoder_of(model)(input_ids=ids, use_cache=False)
        parts.append(out.last_hidden_state[0, len(prompt) - 1 :])
    return torch.cat(parts)


def output_head(model: Any) -> tuple[Any, float | None]:
    """The projection to the vocabulary, and the bound that ``tanh`` puts on its logits (the Gemma family), if any."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = ("final_logit_softcapping", "logits_soft_cap")
    return base.get_output_embeddings(), next((cap for n in names if (cap := getattr(base.config, n, None))), None)


def log_distribution(hidden: Tensor, head: Any, softcap: float | None, temperature: float = 1.0) -> Tensor:
    """Log-probabilities [S, V] in float32 of the whole vocabulary; for a chunk of rows, see ``vocabulary_chunks``."""
    logits = head(hidden).float()
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return torch.log_softmax(logits / temperature, dim=-1)


def project(
    hidden_SC: Tensor, head: Any, targets_S: Tensor, *, temperature: float, entropy: bool, softcap: float | None
) -> TokenScores:
    """Log-probabilities (and entropies) of the targets under ``softmax(head(hidden) / temperature)``, in chunks."""
    # An adapter around the head is not a plain linear layer: its own parameters need their gradients.
    plain = isinstance(head, torch.nn.Linear) and head.bias is None
    if plain and not head.weight.requires_grad and not entropy and softcap is None:
        return TokenScores(_frozen_head_logp(hidden_SC, head.weight, targets_S, temperature))
    logps, entropies = [], []
    for rows in vocabulary_chunks(len(targets_S), head.weight):
        logp, ent = _checkpointed(_project_chunk, hidden_SC[rows], head, targets_S[rows], temperature, softcap)
        logps.append(logp)
        entropies.append(ent)
    empty = hidden_SC.new_zeros(0, dtype=torch.float32)
    return TokenScores(torch.cat(logps or [empty]), torch.cat(entropies or [empty]) if entropy else None)


def _project_chunk(
    hidden: Tensor, head: Any, targets: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    logp = log_distribution(hidden, head, softcap, temperature)
    chosen = logp.gather(1, targets[:, None])[:, 0]
    return chosen, -(logp.detach().exp() * logp.detach()).sum(-1)


def _checkpointed(function: Any, *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return function(*args)
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)


def vocabulary_chunks(rows: int, weight: Tensor) -> Iterator[slice]:
    """Slices of ``rows`` to project with ``weight`` [V, C] at a time: ``CHUNK_BYTES`` or ``CHUNK_ROWS`` of logits."""
    step = max(CHUNK_ROWS.get(weight.device.type, 1024), CHUNK_BYTES // (4 * weight.shape[0]))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


class _FrozenHeadLogp(torch.autograd.Function):
    """log softmax(h W^T / T)[target] for a frozen W.

    As W takes no gradient, d logp / d h = (W[target] - p W) / T is all that the backward pass needs: it is computed
    while the chunk's probabilities p exist, and nothing of size V is kept or computed twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
        logp = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        needs_grad = ctx.needs_input_grad[0]
        slope = torch.empty_like(hidden) if needs_grad else None
        for rows in vocabulary_chunks(len(targets), weight):
            logits = product(hidden[rows], weight).float()
            # Over 262,144 columns log_softmax is 6e-5 off in float32, as in every plain forward: then so must we be.
            log_p = torch.log_softmax(logits if temperature == 1 else logits.div_(temperature), dim=-1)
            logp[rows] = log_p.gather(1, targets[rows, None])[:, 0]
            if slope is not None:
                p = log_p.exp_().to(weight.dtype)
                slope[rows] = (weight[targets[rows]] - product(p, weight.t())) / temperature
        if slope is not None:
            ctx.save_for_backward(slope)
        return logp

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0][:, None].to(slope.dtype) * slope, None, None, None


_frozen_head_logp: Callable[..., Tensor] = _FrozenHeadLogp.apply


def by_prompt(
    prompts: Sequence[tuple[int, ...]], completions: Sequence[tuple[int, ...]]
) -> tuple[list[TokenGroup], list[list[int]]]:
    """The completions grouped by their prompts, short prompts first, and of each group's the places in the input."""
    places: dict[tuple[int, ...], list[int]] = {}
    for at, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(at)
    keys = sorted(places, key=len)
    return [TokenGroup(key, tuple(completions[at] for at in places[key])) for key in keys], [places[k] for k in keys]


def micro_batches(
    groups: Sequence[TokenGroup], token_budget: int, *, share_prefix: bool = True
) -> Iterator[tuple[list[TokenGroup], list[tuple[int, int]]]]:
    """Split groups into packs of at most ``token_budget`` tokens, in order.

    Yields each pack with, for every completion in it, its (group, completion) place in the input. A group is cut
    between completions only if it is too large alone, as its prompt is then computed once per part; a single
    completion that is too large still goes alone.
    """
    pack_groups: list[TokenGroup] = []
    places: list[tuple[int, int]] = []
    used = 0
    for g, group in enumerate(groups):
        current: list[int] = []
        # What does not fit beside the groups before it begins a pack, rather than be cut for the rest of theirs.
        if share_prefix and used and used + group.packed_tokens() > token_budget:
            yield pack_groups, places
            pack_groups, places, used = [], [], 0
        for c in range(len(group.completions)):
            extra = len(group.completions[c]) + (len(group.prompt) if not current or not share_prefix else 0)
            if used and used + extra > token_budget:
                if current:
                    pack_groups.append(_part(group, current))
                yield pack_groups, places
                pack_groups, places, current, used = [], [], [], 0
                extra = len(group.completions[c]) + len(group.prompt)
            current.append(c)
            places.append((g, c))
            used += extra
        if current:
            pack_groups.append(_part(group, current))
    if pack_groups:
        yield pack_groups, places


def _part(group: TokenGroup, completions: list[int]) -> TokenGroup:
    return TokenGroup(group.prompt, tuple(group.completions[c] for c in completions))

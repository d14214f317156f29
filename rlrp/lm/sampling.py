"""Sampling groups of completions, each prompt prefilled once and its keys and values kept once.

Rows of all prompts decode together; a finished row leaves the batch and waiting prompts take its place, so that one
long reply does not idle the rest. Every completion has a random stream of its own, so what it says does not depend
on what it was batched with (up to the rounding of the matrix products).

Shapes: N active rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rlrp.lm.decoding import DecodeLayout, Row
from rlrp.lm.inference import Inference, inference
from rlrp.lm.load import LanguageModel
from rlrp.lm.plain import generate_plainly
from rlrp.lm.prefill import PREFIX_CACHE_BYTES, PrefixCache, prefill
from rlrp.lm.prompts import Prompt
from rlrp.lm.shared_prefix import shares_prefix

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 leave the distribution whole; otherwise the
    returned log-probabilities are still those of the whole distribution at this temperature, which is what a learner
    recomputes, and ``Completion.truncated`` says so. A reply ends with the model's stop tokens or, with its text cut
    there, where one of ``stop_strings`` is complete. ``ignore_stop`` goes on to ``max_new_tokens``: for measurements.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_rows: int = 160
    stop_strings: tuple[str, ...] = ()
    ignore_stop: bool = False

    @property
    def truncates(self) -> bool:
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)


@dataclass(frozen=True)
class SampleRequest:
    """A prompt and one seed per completion wanted; ``source`` is what the ids were made of, for whoever must know more
    than the policy's tokens to go on with the conversation."""

    prompt: tuple[int, ...]
    seeds: tuple[int, ...]
    source: Prompt | None = None


@dataclass(frozen=True)
class Turn:
    """One reply of a conversation that a completion is.

    Args:
        user: what the user said before it; "" of the first, before which the prompt's user spoke.
        reply: its text.
        finished: False where it was broken off at its longest length.
        end: how many of the completion's tokens there are up to its end.
        judged: whether the reward is asked about it.
    """

    user: str
    reply: str
    finished: bool
    end: int
    judged: bool = True


@dataclass(frozen=True)
class Completion:
    """Token ids (with the stop token, if it came), their log-probabilities at the sampling temperature, the text.

    Of a conversation (``rlrp.runtime.episodes``) it is everything after the prompt: ``spoken`` says which tokens the
    policy sampled (None: all), the others' log-probabilities are 0; ``turns`` are its replies, ``text`` and ``finish``
    those of the last.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    finish: FinishReason
    truncated: bool = False
    spoken: tuple[bool, ...] | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def reply_tokens(self) -> list[int]:
        """How many tokens each reply has."""
        if self.spoken is None:
            return [len(self.ids)]
        return [sum(self.spoken[start:end]) for start, end in pairwise([0, *(turn.end for turn in self.turns)])]

    @property
    def spoken_tokens(self) -> int:
        """How many tokens the policy sampled."""
        return sum(self.reply_tokens)


class Sampler:
    """Draws completions from a language model: each prompt once per group where ``use_shared_prefix`` could switch its
    attention to ours, by transformers' ``generate`` elsewhere.

    Prompts are kept for the next that begins alike, up to ``cache_bytes``: whoever changes the weights must call
    ``forget``.
    """

    def __init__(self, lm: LanguageModel, *, cache_bytes: int = PREFIX_CACHE_BYTES):
        self.lm = lm
        self.cache = PrefixCache(cache_bytes)

    def forget(self) -> None:
        """Keep no prompt's keys and values any longer."""
        self.cache.clear()

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """Completions for every request, in order; ``progress`` is called with the number just finished."""
        self._check_lengths(requests, settings)
        if not shares_prefix(self.lm.model):
            return self._sample_plainly(requests, settings, progress)
        results: list[list[Completion | None]] = [[None] * len(request.seeds) for request in requests]
        widest = max((len(request.seeds) for request in requests), default=1)
        rows = sum(len(request.seeds) for request in requests)
        layout = DecodeLayout(max(min(settings.max_rows, rows), widest), settings.max_new_tokens)
        waiting = [r for r, request in enumerate(requests) if request.seeds]
        active: list[Row] = []
        with inference(self.lm.model) as model:
            while waiting or active:
                admitted = self._admit(requests, waiting, len(active), layout.slots)
                if admitted:
                    fresh, logits = self._prefill(model, requests, admitted, len(active), layout, settings)
                    self._draw(fresh, logits, settings)
                    active += fresh
                else:
                    self._draw(active, self._decode(model, active, layout), settings)
                active = self._retire(active, layout, settings, results, progress)
        return [[completion for completion in group if completion is not None] for group in results]

    def _check_lengths(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> None:
        from rlrp.errors import UserError

        longest = max((len(request.prompt) for request in requests), default=0)
        if longest + settings.max_new_tokens > self.lm.context:
            raise UserError(
                f"a prompt of {longest} tokens and a reply of {settings.max_new_tokens} exceed the model's context of "
                f"{self.lm.context}; shorten the card or history, or lower max_new_tokens",
                place="rl.max_new_tokens",
            )

    def _admit(self, requests: Sequence[SampleRequest], waiting: list[int], busy: int, slots: int) -> list[int]:
        """Take prompts from the queue while all their rows fit."""
        admitted: list[int] = []
        while waiting and busy + len(requests[waiting[0]].seeds) <= slots:
            busy += len(requests[waiting[0]].seeds)
            admitted.append(waiting.pop(0))
        return admitted

    def _prefill(
        self,
        model: Inference,
        requests: Sequence[SampleRequest],
        admitted: list[int],
        first_slot: int,
        layout: DecodeLayout,
        settings: SamplingSettings,
    ) -> tuple[list[Row], Tensor]:
        """Run the prompts once; the rows they open and the logits [rows, V] of each row's first token."""
        kv, hidden = prefill(model, [requests[r].prompt for r in admitted], self.cache)
        layout.admit(admitted, kv)
        rows: list[Row] = []
        for r in admitted:
            for index, seed in enumerate(requests[r].seeds):
                uniforms = uniforms_of(seed, settings.max_new_tokens)
                rows.append(Row(r, index, len(requests[r].prompt), uniforms, first_slot + len(rows)))
        repeats = torch.tensor([len(requests[r].seeds) for r in admitted], device=self.device)
        return rows, model.logits(hidden).repeat_interleave(repeats, dim=0)

    def _decode(self, model: Inference, active: list[Row], layout: DecodeLayout) -> Tensor:
        """One forward of every active row's newest token; logits [N, V] of the next."""
        layout.begin(active, self.device)
        ids = torch.tensor([[row.ids[-1] for row in active]], device=self.device)
        positions = (layout.prompt_lengths + layout.at).unsqueeze(0)
        return model.logits(model.hidden(ids, positions, layout))

    def _draw(self, rows: list[Row], logits: Tensor, settings: SamplingSettings) -> None:
        """Append one token and its log-probability to every row."""
        uniform = torch.tensor([row.uniforms[len(row.ids)] for row in rows], device=logits.device)
        tokens, logps = draw_tokens(logits, uniform, settings)
        for row, token, value in zip(rows, tokens, logps, strict=True):
            row.ids.append(token)
            row.logps.append(value)

    def _retire(
        self,
        active: list[Row],
        layout: DecodeLayout,
        settings: SamplingSettings,
        results: list[list[Completion | None]],
        progress: Callable[[int], None] | None,
    ) -> list[Row]:
        """Take finished rows out; the last rows move into the slots that fall free, so slots stay 0..N-1."""
        finished: set[int] = set()
        for row in active:
            completion = self._finished(row.ids, row.logps, settings)
            if completion is not None:
                results[row.request][row.index] = completion
                finished.add(row.slot)
        if not finished:
            return active
        left = [row for row in active if row.slot not in finished]
        free = sorted(slot for slot in finished if slot < len(left))
        for row in sorted((row for row in left if row.slot >= len(left)), key=lambda row: row.slot):
            target = free.pop(0)
            layout.move(row.slot, target)
            row.slot = target
        if progress:
            progress(len(finished))
        return sorted(left, key=lambda row: row.slot)

    def _finished(self, ids: Sequence[int], logps: Sequence[float], settings: SamplingSettings) -> Completion | None:
        """The completion, if its newest token ends it."""
        stopped = ids[-1] in self.lm.chat.stop_ids and not settings.ignore_stop
        cut = None if stopped or not settings.stop_strings else self._cut(ids, settings.stop_strings)
        if not (stopped or cut is not None or len(ids) >= settings.max_new_tokens):
            return None
        text = self.lm.chat.decode_reply(ids) if cut is None else cut
        finish: FinishReason = "stop" if stopped or cut is not None else "length"
        return Completion(tuple(ids), tuple(logps), text, finish, settings.truncates)

    def _cut(self, ids: Sequence[int], strings: Sequence[str]) -> str | None:
        """The text before the first stop string, if one is complete."""
        # A string that was there before this token would have ended the reply then; it lies in the last tokens.
        recent = self.lm.tokenizer.decode(list(ids[-max(map(len, strings)) - 4 :]))
        if not any(string in recent for string in strings):
            return None
        text = str(self.lm.tokenizer.decode(list(ids), skip_special_tokens=True))
        places = [text.find(string) for string in strings if string in text]
        return text[: min(places)].strip() if places else None

    def _sample_plainly(
        self,
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
        progress: Callable[[int], None] | None,
    ) -> list[list[Completion]]:
        """One request after another through ``generate``, every completion with its own copy of the prompt."""
        results: list[list[Completion]] = []
        for request in requests:
            found = self._group_plainly(request, settings)
            results.append(found)
            if progress:
                progress(len(found))
        return results

    def _group_plainly(self, request: SampleRequest, settings: SamplingSettings) -> list[Completion]:
        streams = [uniforms_of(seed, settings.max_new_tokens) for seed in request.seeds]
        uniforms = torch.tensor(np.array(streams), device=self.device)

        def choose(logits: Tensor, place: int) -> tuple[list[int], list[float]]:
            return draw_tokens(logits, uniforms[:, place], settings)

        def is_finished(ids: Sequence[int], logps: Sequence[float]) -> bool:
            return self._finished(ids, logps, settings) is not None

        drawn = generate_plainly(
            self.lm.model,
            request.prompt,
            choose,
            rows=len(request.seeds),
            max_new_tokens=settings.max_new_tokens,
            finished=is_finished,
        )
        completions = (self._finished(ids, logps, settings) for ids, logps in drawn)
        return [completion for completion in completions if completion is not None]

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.lm.model.parameters()).device
        return device


def uniforms_of(seed: int, count: int) -> np.ndarray:
    """A completion's own random stream, in [0, 1)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def draw_tokens(logits: Tensor, uniform: Tensor, settings: SamplingSettings) -> tuple[list[int], list[float]]:
    """A token for every row of ``logits`` [N, V], and its log-probability at the sampling temperature."""
    if settings.temperature == 0:
        tokens = logits.argmax(dim=-1)
        logp = torch.log_softmax(logits.float(), dim=-1)
    else:
        logp = torch.log_softmax(logits.float() / settings.temperature, dim=-1)
        tokens = draw(logp, uniform, settings)
    return tokens.tolist(), logp.gather(1, tokens[:, None])[:, 0].tolist()


def draw(logp: Tensor, uniform: Tensor, settings: SamplingSettings) -> Tensor:
    """Tokens [N] by inverting the cumulative distribution at ``uniform`` [N] in [0, 1).

    With top-k, top-p or min-p the kept tokens are renormalised; ties at the threshold of top-k or min-p are kept.
    """
    probs = logp.exp()
    if settings.top_k:
        smallest = probs.topk(min(settings.top_k, probs.shape[-1]), dim=-1).values[:, -1:]
        probs = probs.where(probs >= smallest, 0.0)
    if settings.top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True)
        before = ranked.cumsum(-1) - ranked
        keep = before < settings.top_p * probs.sum(-1, keepdim=True)
        keep[:, 0] = True  # even top_p = 0 leaves the likeliest token
        ranked = ranked.where(keep, 0.0)
        probs = torch.zeros_like(probs).scatter_(1, order, ranked)
    if settings.min_p > 0:
        probs = probs.where(probs >= settings.min_p * probs.max(-1, keepdim=True).values, 0.0)
    cumulative = probs.cumsum(-1)
    # The last sum is the total as it was really added up, so rounding cannot push a draw past the end.
    target = uniform.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True)[:, 0]
    last_possible = probs.shape[-1] - 1 - (probs.flip(-1) > 0).to(torch.uint8).argmax(-1)
    return torch.minimum(tokens, last_possible)

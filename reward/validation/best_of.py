"""Over-optimisation without RL: the best of n replies by each term and by the total, and what else that buys.

The expected figure of the best of n out of N drawn replies is exact: the reply of rank k (0 the best) is the best of n
drawn without replacement with probability C(N-1-k, n-1) / C(N, n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reward.composite import CompositeReward
from reward.dissonance.lexicon import self_mentions
from reward.features import visible_text
from reward.measures import figure
from reward.text import units
from rlrp.cards import CharacterCard
from rlrp.dialogue.types import Message, Sample
from rlrp.progress import progress

if TYPE_CHECKING:
    from rlrp.lm.load import LanguageModel

Floats = NDArray[np.float64]
JUDGE = "judge"
_DIGITS = 4


@dataclass(frozen=True)
class Drawn:
    """Replies of one policy to one prompt."""

    card: CharacterCard
    messages: tuple[Message, ...]
    replies: tuple[str, ...]
    finished: tuple[bool, ...]

    def samples(self) -> list[Sample]:
        pairs = zip(self.replies, self.finished, strict=True)
        return [Sample(self.card, self.messages, reply, finished) for reply, finished in pairs]


def draw_replies(
    lm: LanguageModel,
    prompts: Sequence[tuple[CharacterCard, Message]],
    count: int,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int = 0,
) -> list[Drawn]:
    """``count`` replies of a policy to every prompt, each with a seed of its own."""
    from rlrp.lm.prompts import make_prompt
    from rlrp.lm.sampling import Sampler, SampleRequest, SamplingSettings

    requests = []
    for at, (card, message) in enumerate(prompts):
        prompt = make_prompt(lm.chat, f"best-of-{at}", card.name, card, (message,))
        requests.append(SampleRequest(prompt.ids, tuple((seed * 1009 + at) * 100_003 + k for k in range(count))))
    sampling = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature)
    with progress("replies to choose from", count * len(prompts)) as advance:
        drawn = Sampler(lm).sample(requests, sampling, progress=advance)
    return [
        Drawn(card, (message,), tuple(c.text for c in own), tuple(c.finish != "length" for c in own))
        for (card, message), own in zip(prompts, drawn, strict=True)
    ]


def measure_best_of(composite: CompositeReward, drawn: Sequence[Drawn], *, seed: int = 0) -> dict[str, Any]:
    """Figures of the best of 1, 2, 4, ... replies by every term and by the total.

    Returns:
        ``n`` (the counts), ``prompts``, and ``by``: for each selecting score the expected judge, total, length in units
        and share with a self-mention at each n, and ``judge_gain``: judge at the largest n less at 1, with the 95 %
        interval over prompts, and whether it ``fell`` (the interval lies below 0). Without a term called judge those
        are left out.
    """
    judged = composite.judge([own.samples() for own in drawn])
    size = len(drawn[0].replies)
    counts = [2**k for k in range(size.bit_length()) if 2**k <= size]
    values = {name: _table([[j.terms[name] for j in group] for group in judged]) for name in judged[0][0].terms}
    values["total"] = _table([[j.total for j in group] for group in judged])
    effects: dict[str, Floats] = {
        "total": values["total"],
        "length": _table([[float(units(visible_text(reply))) for reply in own.replies] for own in drawn]),
        "self_mentions": _table([[float(_says_i(own.card, reply)) for reply in own.replies] for own in drawn]),
    }
    if JUDGE in values:
        effects[JUDGE] = values[JUDGE]
    found: dict[str, Any] = {"n": counts, "prompts": len(drawn), "replies": size, "by": {}}
    for name, scores in values.items():
        chances = np.stack([_chances(row, counts) for row in scores])  # (prompts, counts, replies)
        chosen = {effect: np.einsum("pnk,pk->pn", chances, _filled(own)) for effect, own in effects.items()}
        figures: dict[str, Any] = {effect: _rounded(own.mean(axis=0)) for effect, own in chosen.items()}
        if JUDGE in chosen:
            gain = chosen[JUDGE][:, -1] - chosen[JUDGE][:, 0]
            cards = [own.card.name for own in drawn]
            own = figure(partial(_mean_of, gain), cards, seed=seed)
            figures["judge_gain"] = {"value": own["value"], "ci95": own["ci95"], "fell": own["ci95"][1] < 0}
        found["by"][name] = figures
    return found


def _mean_of(values: Floats, rows: NDArray[np.intp]) -> float:
    return float(values[rows].mean())


def _chances(scores: Floats, counts: Sequence[int]) -> Floats:
    """(counts, N): how likely each reply is the best of n. Replies with one score share their chances; abstentions
    come last."""
    size, given = len(scores), np.nan_to_num(scores, nan=-np.inf)
    order = np.argsort(-given, kind="stable")
    by_rank = np.array([[comb(size - 1 - rank, n - 1) / comb(size, n) for rank in range(size)] for n in counts])
    table = np.empty_like(by_rank)
    table[:, order] = by_rank
    for value in np.unique(given):
        tied = given == value
        table[:, tied] = table[:, tied].mean(axis=1, keepdims=True)
    return table


def _table(rows: Sequence[Sequence[float | None]]) -> Floats:
    return np.array([[np.nan if value is None else value for value in row] for row in rows], float)


def _filled(values: Floats) -> Floats:
    """Abstentions stand at their prompt's mean, or at 0 where the whole prompt abstains."""
    means = np.array([np.nanmean(row) if np.isfinite(row).any() else 0.0 for row in values])
    return np.where(np.isfinite(values), values, means[:, None])


def _says_i(card: CharacterCard, reply: str) -> bool:
    return bool(self_mentions(visible_text(reply), card.language, card))


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]


def falls(found: Mapping[str, Any]) -> list[str]:
    """The scores whose best reply the judge thinks worse of than of any reply."""
    return [name for name, own in found["by"].items() if own.get("judge_gain", {}).get("fell")]

"""From judged groups to advantages. Pure functions of tensors.

Shapes: P prompts, G completions per prompt, K reward terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlrp.algorithms import Baseline, Scale

EPSILON = 1e-4
"""Added to the standard deviation, as TRL does."""


def group_advantages(
    reward_PG: Tensor,
    *,
    baseline: Baseline = "group",
    scale: Scale = "group",
    characters: Sequence[str] | None = None,
) -> Tensor:
    """Take a baseline from each reward, and scale.

    Baselines: the ``group``'s mean (GRPO, arXiv 2402.03300, section 4.1.2); ``leave_one_out``, the mean of the group's
    other rewards (RLOO, arXiv 2402.14740, section 3), which a completion's own reward cannot bias; ``none``.

    Scales: ``group`` divides by the standard deviation of the group (GRPO), ``batch`` of all rewards, ``character`` of
    all rewards of the same character, ``none`` leaves the differences as they are (Dr. GRPO, arXiv 2503.20783).
    ``whiten`` takes the mean from the advantages themselves and divides by their own deviation over the batch: with
    baseline ``none`` REINFORCE++, with ``group`` its variant with a baseline (arXiv 2501.03262), with
    ``leave_one_out`` TRL's normalised RLOO. REINFORCE++ whitens over tokens, whose advantages differ by the KL in the
    reward; here a completion's tokens share theirs, and completions count alike. Standard deviations are the unbiased
    ones, as in TRL.

    ``terms`` normalises each reward term apart and is ``term_advantages``'s.

    Degenerate groups: one whose rewards are all equal gets zeros, it carries no signal; so does one of a single
    completion. Baseline ``none`` compares across groups, so there such groups keep a signal; a batch of equal rewards
    (or of one) has none.

    Args:
        characters: whose each prompt is [P]; needed by ``character`` alone.

    Raises:
        ValueError: another shape, or ``characters`` missing or not one a prompt.
    """
    if reward_PG.ndim != 2:
        raise ValueError(f"reward_PG: got shape {tuple(reward_PG.shape)}, expected [prompts, completions]")
    apart = _apart(reward_PG, baseline)
    if scale == "none":
        return apart
    if scale == "whiten":
        return whiten(apart)
    if scale == "terms":
        raise ValueError("scale 'terms' is of several terms: term_advantages makes it")
    return apart / (_deviations(reward_PG, scale, characters) + EPSILON)


def term_advantages(terms_PGK: Tensor, weights_K: Tensor) -> Tensor:
    """Normalise every term within its group, then weigh, add up and whiten over the batch: GDPO, arXiv 2601.05242.

    ``group_advantages`` of the weighted sum lets the term with the largest spread drown the others, and gives replies
    that differ in which term they please the same advantage. NaN is a term that abstained: it counts in no mean and
    adds 0, which is the group's mean. A term that says the same of a whole group, or speaks of fewer than two of its
    completions, adds 0 there. A completion of which no term says anything gets 0 and is left out of the whitening.

    Raises:
        ValueError: shapes other than [prompts, completions, terms] and [terms].
    """
    if terms_PGK.ndim != 3 or weights_K.shape != terms_PGK.shape[2:]:
        raise ValueError(
            f"got shapes {tuple(terms_PGK.shape)} and {tuple(weights_K.shape)}, "
            "expected [prompts, completions, terms] and [terms]"
        )
    said = ~terms_PGK.isnan()
    count = said.sum(1, keepdim=True)
    mean = terms_PGK.nansum(1, keepdim=True) / count.clamp(min=1)
    apart = (terms_PGK - mean).where(said, 0.0)
    deviation = (apart.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    total = (apart / (deviation + EPSILON) * weights_K).sum(2)
    judged = said.any(2)
    return torch.zeros_like(total).masked_scatter(judged, whiten(total[judged]))


def whiten(values: Tensor) -> Tensor:
    """Mean 0 and (unbiased) standard deviation 1 over all values, whatever their shape; zeros where there is only one.

    Over completions it is REINFORCE++'s, over the tokens of a batch PPO's.
    """
    if values.numel() < 2:
        return torch.zeros_like(values)
    return (values - values.mean()) / (values.std() + EPSILON)


def overlong(lengths: Tensor, *, longest: int, buffer: int) -> Tensor:
    """What a completion of so many tokens adds to its reward, from 0 to -1, of the lengths' shape.

    0 up to ``longest - buffer`` tokens, then falling evenly, -1 from ``longest`` on: DAPO's soft overlong punishment,
    arXiv 2503.14476, section 3.4, eq. 13. Lengths and bounds in tokens.
    """
    return -((lengths - (longest - buffer)) / buffer).clamp(0.0, 1.0)


def equal_groups(reward_PG: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Which groups [P] have rewards that are all equal: with a baseline of the group they teach nothing."""
    return (reward_PG.max(dim=1).values - reward_PG.min(dim=1).values) <= tolerance


def _apart(reward_PG: Tensor, baseline: Baseline) -> Tensor:
    """Rewards less their baseline [P, G]; zeros for groups of one, which have nothing to compare with."""
    if baseline == "none":
        return reward_PG
    others = reward_PG.shape[1] - 1
    if baseline == "leave_one_out" and others:
        return reward_PG - (reward_PG.sum(dim=1, keepdim=True) - reward_PG) / others
    return reward_PG - reward_PG.mean(dim=1, keepdim=True)


def _deviations(reward_PG: Tensor, scale: Scale, characters: Sequence[str] | None) -> Tensor:
    """The standard deviation that each reward is divided by, broadcastable to [P, G]; 0 where there is one reward."""
    if scale == "group":
        return reward_PG.std(dim=1, keepdim=True) if reward_PG.shape[1] > 1 else torch.zeros_like(reward_PG)
    if scale == "batch":
        return _deviation(reward_PG)
    if characters is None or len(characters) != len(reward_PG):
        raise ValueError(f"characters: got {characters and len(characters)}, expected one for {len(reward_PG)} prompts")
    rows: dict[str, list[int]] = {}
    for at, character in enumerate(characters):
        rows.setdefault(character, []).append(at)
    own = {character: _deviation(reward_PG[places]) for character, places in rows.items()}
    return torch.stack([own[character] for character in characters])[:, None]


def _deviation(values: Tensor) -> Tensor:
    return values.std() if values.numel() > 1 else values.new_zeros(())

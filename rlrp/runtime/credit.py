"""From judged groups to what each completion is worth to the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlrp.algorithms import Baseline, Scale
from rlrp.protocols import Judgement
from rlrp.rl.advantages import equal_groups, group_advantages, overlong, term_advantages
from rlrp.runtime.groups import Group


@dataclass(frozen=True)
class Overlong:
    """DAPO's soft punishment of completions that come near the longest one, see ``rlrp.rl.advantages.overlong``."""

    longest: int
    """Tokens that a reply may have at most."""
    buffer: int
    """Tokens before that over which the punishment grows."""
    penalty: float = 1.0
    """The whole punishment, in units of the reward."""


@dataclass(frozen=True)
class CreditSettings:
    """How a run's judgements become rewards and advantages."""

    baseline: Baseline = "group"
    scale: Scale = "group"
    term_weights: Mapping[str, float] = field(default_factory=dict)
    """The weight of every reward term in the total; what scale ``terms`` weighs them by after normalising."""
    overlong: Overlong | None = None


def set_advantages(groups: Sequence[Group], settings: CreditSettings) -> None:
    """Rewards and advantages from the judgements; groups whose rewards are all equal are marked.

    Rewards are the judgements' totals and the overlong punishment, which a group also keeps apart. Where the learner
    makes its own advantages (a critic, the KL in the reward), it makes them from these rewards.
    """
    punished_PG = _punishments(groups, settings.overlong)
    reward_PG = _totals(groups) + punished_PG
    if settings.scale == "terms":
        advantage_PG = term_advantages(*_terms(groups, settings))
    else:
        characters = [group.prompt.card_id for group in groups]
        advantage_PG = group_advantages(
            reward_PG, baseline=settings.baseline, scale=settings.scale, characters=characters
        )
    equal = equal_rewards(groups, settings)
    for at, group in enumerate(groups):
        group.rewards, group.advantages = reward_PG[at].tolist(), advantage_PG[at].tolist()
        group.overlong, group.equal = punished_PG[at].tolist() if settings.overlong else [], equal[at]


def equal_rewards(groups: Sequence[Group], settings: CreditSettings) -> list[bool]:
    """Which groups' completions are all worth the same, so that a baseline of the group leaves nothing to learn.

    That is what dynamic sampling draws again (DAPO, arXiv 2503.14476, section 3.2). Under scale ``terms`` a group
    teaches as soon as one term that has a weight tells its completions apart.
    """
    if settings.scale != "terms":
        return list(equal_groups(_totals(groups) + _punishments(groups, settings.overlong)).tolist())
    terms_PGK, _ = _terms(groups, settings)
    filled_PGK = torch.where(terms_PGK.isnan(), terms_PGK.nanmean(1, keepdim=True), terms_PGK).nan_to_num(0.0)
    same = [equal_groups(filled_PG) for filled_PG in filled_PGK.unbind(2)]
    return list(torch.stack(same).all(0).tolist()) if same else [True] * len(groups)


def _totals(groups: Sequence[Group]) -> Tensor:
    return torch.tensor([[j.total for j in group.judgements] for group in groups], dtype=torch.float64)


def _punishments(groups: Sequence[Group], settings: Overlong | None) -> Tensor:
    """What each completion's length, in a conversation that of its longest reply, adds to its reward [P, G]."""
    longest = [[float(max(c.reply_tokens)) for c in group.completions] for group in groups]
    lengths_PG = torch.tensor(longest, dtype=torch.float64)
    if settings is None:
        return torch.zeros_like(lengths_PG)
    return settings.penalty * overlong(lengths_PG, longest=settings.longest, buffer=settings.buffer)


def _terms(groups: Sequence[Group], settings: CreditSettings) -> tuple[Tensor, Tensor]:
    """The values [P, G, K] of the terms that have a weight, NaN where one abstained, and the weights [K].

    The overlong punishment is a term of its own. A gate of the composite, which caps totals, has no say here.
    """
    weights = {name: weight for name, weight in settings.term_weights.items() if weight}
    values = [[[_value(j, name) for name in weights] for j in group.judgements] for group in groups]
    terms_PGK = torch.tensor(values, dtype=torch.float64).view(len(groups), -1, len(weights))
    weight_K = torch.tensor(list(weights.values()), dtype=torch.float64)
    if settings.overlong is None:
        return terms_PGK, weight_K
    penalty = settings.overlong.penalty
    share_PG = _punishments(groups, settings.overlong) / penalty
    return torch.cat([terms_PGK, share_PG[..., None]], dim=2), torch.cat([weight_K, torch.tensor([penalty])])


def _value(judgement: Judgement, name: str) -> float:
    """A term's value, NaN where it abstained."""
    value = judgement.terms[name]
    return float("nan") if value is None else value

"""The training mixture: role-play with a share of general data, so that reasoning survives."""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from rlrp.errors import UserError

T = TypeVar("T")
PLACE = "sft.general_share"
LARGEST_SHARE = 0.5
USUAL_SHARE = (0.2, 0.3)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MixturePlan:
    """How many examples a mixture takes of each sort.

    Args:
        repeats: general examples taken over those there are; below 1, only a part is used, above 1, some are
            seen more than once in an epoch.
    """

    role_play: int
    general: int
    repeats: float

    def __str__(self) -> str:
        total = self.role_play + self.general
        share = self.general / total if total else 0.0
        return (
            f"{self.role_play} role-play + {self.general} general = {total} examples ({share:.0%} general; "
            f"each general example {self.repeats:.2f} times on average)"
        )


def plan_mixture(role_play: int, general: int, share: float) -> MixturePlan:
    """Count the examples: all role-play once, and as many general ones as make up ``share`` of the total.

    With r role-play examples and a share s, g = r s / (1 - s), rounded.

    Args:
        role_play: how many there are; general: how many there are.
        share: general examples as a share of all examples, 0 to 0.5.

    Raises:
        UserError: the share is not within 0 to 0.5, or there is nothing to take.
    """
    if not 0 <= share <= LARGEST_SHARE:  # also refuses NaN
        raise UserError(
            f"got {share}, expected 0 to {LARGEST_SHARE} ({USUAL_SHARE[0]} to {USUAL_SHARE[1]} works well): beyond "
            "half, the model learns the assistant rather than the characters",
            place=PLACE,
        )
    if not role_play:
        raise UserError("no role-play dialogues to mix", place=PLACE)
    if share and not general:
        raise UserError(f"got {share}, but there are no general examples; give some or set it to 0", place=PLACE)
    wanted = math.floor(role_play * share / (1 - share) + 0.5)
    return MixturePlan(role_play, wanted, wanted / general if general else 0.0)


def mix(role_play: Sequence[T], general: Sequence[T], share: float, seed: int) -> list[T]:
    """Shuffle all role-play examples with general ones, repeated or subsampled to make up ``share`` of the total.

    No general example is taken once more than any other needs: counts differ by one at most. What was taken is
    logged (``plan_mixture`` gives it beforehand). A share that is known to cost something warns.

    Args:
        share: of the number of examples, not of tokens; 0 to 0.5.
        seed: same inputs and seed, same order.

    Raises:
        UserError: see ``plan_mixture``.
    """
    plan = plan_mixture(len(role_play), len(general), share)
    _warn_if_unusual(share)
    _log.info("mixture: %s", plan)
    rng = random.Random(f"mixture\n{seed}")
    chosen: list[T] = []
    if plan.general:
        passes, rest = divmod(plan.general, len(general))
        chosen = [*general] * passes + rng.sample(list(general), rest)
    mixed = [*role_play, *chosen]
    rng.shuffle(mixed)
    return mixed


def _warn_if_unusual(share: float) -> None:
    low, high = USUAL_SHARE
    if share == 0:
        message = "general ability is not rehearsed and may be forgotten"
    elif share < low:
        message = f"less than {low} general data may not be enough to keep general ability"
    elif share > high:
        message = f"more than {high} general data dilutes the role-play"
    else:
        return
    warnings.warn(f"{PLACE} {share}: {message}; {low} to {high} works well", stacklevel=3)

"""What is worked out once for a card and not again for each reply: the samples of a group share their card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from rlrp.cards import CharacterCard

_REMEMBERED = 256

T = TypeVar("T")


class PerCard(Generic[T]):
    """Calls ``make`` with a card when it first meets it; of more than 256 cards all are forgotten.

    Cards are told apart by identity: comparing long ones would cost what is saved.
    """

    def __init__(self, make: Callable[[CharacterCard], T]):
        self._make = make
        self._known: dict[int, tuple[CharacterCard, T]] = {}

    def __call__(self, card: CharacterCard) -> T:
        known = self._known.get(id(card))
        if known is None or known[0] is not card:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[id(card)] = (card, self._make(card))
        return known[1]

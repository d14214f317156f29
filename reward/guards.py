"""Guards: cheap terms that close the exits a policy would otherwise take. All values lie in [-1, 0]."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from reward.blacklist import card_text
from reward.card_replies import card_replies
from reward.overlap import Gram, gram_set, grams, share
from reward.per_card import PerCard
from reward.spans import visible
from reward.speaks_for_user import SpeaksForUserTerm
from reward.text import Language, language_of, unit_list, units
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

__all__ = ["LengthTerm", "RepetitionTerm", "SpeaksForUserTerm"]

_FEWEST_REPLIES = 3
_NARROWEST, _WIDEST = 2.25, 4.0
"""A band's factor either side of the median: people vary by more than half, and a band of 16 times bounds nothing."""


class LengthTerm:
    """0 while the reply's length lies in the band and it came to its end, falling in a straight line to -1 outside.

    Length is in units (a Han character, or a word) of what the reader sees. Below the band the value is
    ``(n - low) / low``, so an empty reply gets -1; above it ``(high - n) / (softness * high)``. A reply that sampling
    had to break off costs ``unfinished`` more (compare the overlong penalty of DAPO, arXiv 2503.14476, section 3.4).

    With ``per_card`` the band of a card comes from its own replies (greetings and example lines), if it has at least
    three in the language of the reply: from their median length divided to their median length multiplied by a factor.
    The factor is between 2.25 and 4, wider for a card whose replies differ more (median absolute deviation of the
    logarithms), so that one long greeting among short lines moves the band little.
    """

    name = "length"

    def __init__(
        self,
        *,
        zh: tuple[int, int] = (6, 200),
        en: tuple[int, int] = (6, 160),
        softness: float = 1.0,
        unfinished: float = 0.5,
        per_card: bool = False,
    ):
        """Set the bands.

        Args:
            zh: lowest and highest number of units that a Chinese reply may have for free.
            en: the same for English.
            softness: how far above the band, as a share of its upper end, the value reaches -1.
            unfinished: what being broken off costs, in [0, 1].
            per_card: take a card's band from its own replies where it has three; else, and without it, the language's.
        """
        self._bands = {"zh": _band(zh, "zh"), "en": _band(en, "en")}
        if softness <= 0:
            raise UserError(f"got {softness}, expected a number above 0", place="softness")
        if not 0 <= unfinished <= 1:
            raise UserError(f"got {unfinished}, expected a number from 0 to 1", place="unfinished")
        self._softness, self._unfinished, self._per_card = softness, unfinished, per_card
        self._own = PerCard(_own_bands)

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; part ``units`` is the length, with ``per_card`` also the band's ``low``, ``high``."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        text = visible(sample.reply)
        language = language_of(text, sample.card.language)
        own = self._own(sample.card).get(language) if self._per_card else None
        low, high = own or self._bands[language]
        count = units(text)
        value = 0.0
        reasons: tuple[str, ...] = ()
        if count < low or count == 0:
            value = max(-1.0, (count - low) / low) if low else -1.0
            reasons = (f"length: {count} units, at least {low} expected",)
        elif count > high:
            value = max(-1.0, (high - count) / (self._softness * high))
            reasons = (f"length: {count} units, at most {high} expected",)
        if not sample.finished and self._unfinished:
            value = max(-1.0, value - self._unfinished)
            reasons += ("length: broken off at the longest length allowed",)
        parts = {"units": float(count)}
        if self._per_card:
            parts |= {"low": float(low), "high": float(high)}
        return TermScore(value, reasons, parts)


def _own_bands(card: CharacterCard) -> dict[Language, tuple[int, int]]:
    """The band of a card's own replies by language, of those languages in which it has at least three."""
    logs: dict[Language, list[float]] = {}
    for reply in card_replies(card):
        text = visible(reply)
        if count := units(text):
            logs.setdefault(language_of(text, card.language), []).append(math.log(count))
    bands: dict[Language, tuple[int, int]] = {}
    for language, lengths in logs.items():
        if len(lengths) < _FEWEST_REPLIES:
            continue
        middle = median(lengths)
        spread = 1.4826 * median(abs(length - middle) for length in lengths)  # a normal's standard deviation
        factor = min(_WIDEST, max(_NARROWEST, math.exp(2 * spread)))
        bands[language] = (round(math.exp(middle) / factor), round(math.exp(middle) * factor))
    return bands


def _band(band: Sequence[int], place: str) -> tuple[int, int]:
    if len(band) != 2 or not 0 <= band[0] <= band[1] or band[1] == 0:
        raise UserError(f"got {list(band)}, expected two numbers, 0 <= low <= high, high above 0", place=place)
    return int(band[0]), int(band[1])


class RepetitionTerm:
    """Repeating oneself within the reply, repeating one's earlier turns, and reciting the card.

    Each of the three is a share of the reply's n-grams; what exceeds its free share is scaled to reach 1 at a share
    of 1, and the value is minus their sum, at least -1. N-grams that the user has just used are nobody's repetition.
    """

    name = "repetition"

    def __init__(
        self,
        *,
        free: Mapping[str, float] | None = None,
        within_order: Mapping[str, int] | None = None,
        across_order: Mapping[str, int] | None = None,
    ):
        """Set the tolerances.

        Args:
            free: share of n-grams free of charge for ``within``, ``earlier`` and ``card``; defaults 0.1, 0.2, 0.3.
            within_order: n of the n-grams within the reply, by language; default en 3, zh 4.
            across_order: n of those compared with earlier turns and the card; default en 4, zh 6.
        """
        self._free = {"within": 0.1, "earlier": 0.2, "card": 0.3, **(free or {})}
        self._within = {"en": 3, "zh": 4, **(within_order or {})}
        self._across = {"en": 4, "zh": 6, **(across_order or {})}
        for key, part in self._free.items():
            if key not in ("within", "earlier", "card") or not 0 <= part < 1:
                raise UserError(f"got {part}; within, earlier and card take a share in [0, 1)", place=f"free.{key}")
        for key, order in [*self._within.items(), *self._across.items()]:
            if key not in ("en", "zh") or order < 1:
                raise UserError(
                    f"got {key}: {order}; en and zh take a number from 1", place="within_order/across_order"
                )

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; parts ``within``, ``earlier``, ``card`` are the shares."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        text = visible(sample.reply)
        language = language_of(text, sample.card.language)
        tokens = unit_list(text)
        within, repeated = _within(grams(tokens, self._within[language]))
        order = self._across[language]
        own = grams(tokens, order)
        heard = gram_set([m.content for m in sample.messages if m.role == "user"][-1:], order)
        earlier = gram_set([visible(m.content) for m in sample.messages if m.role == "assistant"], order)
        shares = {
            "within": within,
            "earlier": share(own, earlier - heard),
            "card": share(own, gram_set([card_text(sample.card)], order) - heard - earlier),
        }
        excess = {key: max(0.0, part - self._free[key]) / (1 - self._free[key]) for key, part in shares.items()}
        reasons = tuple(_LABELS[key].format(shares[key], repeated) for key, over in excess.items() if over > 0)
        total = min(1.0, sum(excess.values()))
        return TermScore(-total if total else 0.0, reasons, shares)


_LABELS = {
    "within": 'repetition: {:.0%} of the reply repeats itself ("{}")',
    "earlier": "repetition: {:.0%} of the reply was said in earlier turns",
    "card": "repetition: {:.0%} of the reply is copied from the card",
}


def _within(own: Sequence[Gram]) -> tuple[float, str]:
    """The share of n-grams that came before in the same reply, and the one that came most often."""
    if not own:
        return 0.0, ""
    counts = Counter(own)
    top, _ = counts.most_common(1)[0]
    spaced = " " if any(token.isascii() for token in top) else ""
    return 1 - len(counts) / len(own), spaced.join(top)

"""Guards: cheap terms that close the exits a policy would otherwise take. All values lie in [-1, 0]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from reward.blacklist import card_text
from reward.spans import visible
from reward.speaks_for_user import SpeaksForUserTerm
from reward.text import language_of, unit_list, units
from rlrp.dialogue import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

__all__ = ["LengthTerm", "RepetitionTerm", "SpeaksForUserTerm"]


class LengthTerm:
    """0 while the reply's length lies in the band and it came to its end, falling in a straight line to -1 outside.

    Length is in units (a Han character, or a word) of what the reader sees. Below the band the value is
    ``(n - low) / low``, so an empty reply gets -1; above it ``(high - n) / (softness * high)``. A reply that sampling
    had to break off costs ``unfinished`` more (compare the overlong penalty of DAPO, arXiv 2503.14476, section 3.4).
    """

    name = "length"

    def __init__(
        self,
        *,
        zh: tuple[int, int] = (6, 200),
        en: tuple[int, int] = (6, 160),
        softness: float = 1.0,
        unfinished: float = 0.5,
    ):
        """Set the bands.

        Args:
            zh: lowest and highest number of units that a Chinese reply may have for free.
            en: the same for English.
            softness: how far above the band, as a share of its upper end, the value reaches -1.
            unfinished: what being broken off costs, in [0, 1].
        """
        self._bands = {"zh": _band(zh, "zh"), "en": _band(en, "en")}
        if softness <= 0:
            raise UserError(f"got {softness}, expected a number above 0", place="softness")
        if not 0 <= unfinished <= 1:
            raise UserError(f"got {unfinished}, expected a number from 0 to 1", place="unfinished")
        self._softness, self._unfinished = softness, unfinished

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; part ``units`` is the length."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        text = visible(sample.reply)
        low, high = self._bands[language_of(text, sample.card.language)]
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
        return TermScore(value, reasons, {"units": float(count)})


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
        for key, share in self._free.items():
            if key not in ("within", "earlier", "card") or not 0 <= share < 1:
                raise UserError(f"got {share}; within, earlier and card take a share in [0, 1)", place=f"free.{key}")
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
        within, repeated = _within(_grams(tokens, self._within[language]))
        order = self._across[language]
        grams = _grams(tokens, order)
        heard = _gram_set([m.content for m in sample.messages if m.role == "user"][-1:], order)
        earlier = _gram_set([visible(m.content) for m in sample.messages if m.role == "assistant"], order)
        shares = {
            "within": within,
            "earlier": _share(grams, earlier - heard),
            "card": _share(grams, _gram_set([card_text(sample.card)], order) - heard - earlier),
        }
        excess = {key: max(0.0, share - self._free[key]) / (1 - self._free[key]) for key, share in shares.items()}
        reasons = tuple(_LABELS[key].format(shares[key], repeated) for key, over in excess.items() if over > 0)
        total = min(1.0, sum(excess.values()))
        return TermScore(-total if total else 0.0, reasons, shares)


_LABELS = {
    "within": 'repetition: {:.0%} of the reply repeats itself ("{}")',
    "earlier": "repetition: {:.0%} of the reply was said in earlier turns",
    "card": "repetition: {:.0%} of the reply is copied from the card",
}


def _grams(tokens: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[at : at + order]) for at in range(len(tokens) - order + 1)]


def _gram_set(texts: Sequence[str], order: int) -> set[tuple[str, ...]]:
    return {gram for text in texts for gram in _grams(unit_list(text), order)}


def _within(grams: Sequence[tuple[str, ...]]) -> tuple[float, str]:
    """The share of n-grams that came before in the same reply, and the one that came most often."""
    if not grams:
        return 0.0, ""
    counts = Counter(grams)
    top, _ = counts.most_common(1)[0]
    spaced = " " if any(token.isascii() for token in top) else ""
    return 1 - len(counts) / len(grams), spaced.join(top)


def _share(grams: Sequence[tuple[str, ...]], known: set[tuple[str, ...]]) -> float:
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0

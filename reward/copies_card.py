"""Copying the card: reciting its sentences in place of speaking as the one they describe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from reward.blacklist import card_text
from reward.dissonance.prompts import request_of
from reward.features import expanded
from reward.overlap import Gram, grams, shared_runs
from reward.per_card import PerCard
from reward.spans import visible
from reward.text import Language, language_of, unit_list
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

_ORDER: dict[Language, int] = {"en": 5, "zh": 8}
"""Units of the shortest run that counts: idioms and catch-phrases are shorter."""
_FREE_RUN: dict[Language, int] = {"en": 8, "zh": 14}
"""Units of the longest run that is free, if it is all there is."""
# "Ann is fond of her dog" and "I am fond of my dog" are one sentence: whom it is said of is no difference.
_SAME_EN = {
    **dict.fromkeys(("i", "you", "he", "she", "they", "we", "it"), "i"),
    **dict.fromkeys(("me", "him", "them", "us"), "me"),
    **dict.fromkeys(("my", "your", "his", "her", "their", "our", "its"), "my"),
    **dict.fromkeys(("am", "are", "is"), "is"),
    **dict.fromkeys(("was", "were"), "was"),
    **dict.fromkeys(("has", "have"), "have"),
    **{"i'm": "i is", "you're": "i is", "he's": "i is", "she's": "i is", "they're": "i is"},
}
_SAME_ZH = str.maketrans(dict.fromkeys("你您他她它俺咱吾", "我"))


class CopiesCardTerm:
    """Minus what the reply copies out of the card, in [-1, 0]; 0 while it is no more than people's replies take over.

    Counted are runs of at least 5 words (8 characters) that stand in the card (any field, lorebook included), whoever
    they are said of, and that the user's last message does not have. Two things cost, and the dearer one counts: the
    share of the reply that lies in such runs, beyond ``free``, reaching -1 at the whole reply; and the longest run,
    beyond 8 words (14 characters), reaching -1 at three times that. Up to 8 words (14 characters) in all cost nothing:
    a catch-phrase of the card's may be the whole reply. Where the user asks who the character is, twice as much of all
    this is free. Unlike the ``card`` share of ``repetition`` it sees one long sentence recited in a reply
    that is otherwise the character's own, and a description turned into the first person.
    """

    name = "copies_card"

    def __init__(self, *, free: float = 0.2):
        """``free``: the share of the reply, in [0, 1), that may lie in copied runs."""
        if not 0 <= free < 1:
            raise UserError(f"got {free}, expected a share in [0, 1)", place="free")
        self._free = free
        self._known = {language: PerCard(partial(_card_grams, language)) for language in _ORDER}

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; parts are ``share`` of the reply copied and ``longest`` run, in units."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        text = visible(sample.reply)
        language = language_of(text, sample.card.language)
        order = _ORDER[language]
        tokens = _tokens(text, sample.card, language)
        asked = next((m.content for m in reversed(sample.messages) if m.role == "user"), "")
        heard = set(grams(_tokens(asked, sample.card, language), order))
        runs = shared_runs(tokens, self._known[language](sample.card) - heard, order)
        copied = sum(end - start for start, end in runs)
        longest = max((end - start for start, end in runs), default=0)
        portion = copied / len(tokens) if tokens else 0.0
        parts = {"share": portion, "longest": float(longest)}
        slack = 2 if request_of(sample) == "self_introduction" else 1
        free_share, free_run = min(0.9, slack * self._free), slack * _FREE_RUN[language]
        if copied <= free_run:
            return TermScore(0.0, (), parts)
        cost = max((portion - free_share) / (1 - free_share), (longest - free_run) / (2 * free_run))
        if cost <= 0:
            return TermScore(0.0, (), parts)
        start, end = max(runs, key=lambda run: run[1] - run[0])
        quoted = ("" if language == "zh" else " ").join(tokens[start:end][:12])
        reason = (
            f'copies_card: {portion:.0%} of the reply stands in the card, {longest} units in one piece ("{quoted}")'
        )
        return TermScore(-min(1.0, cost), (reason,), parts)


def _card_grams(language: Language, card: CharacterCard) -> set[Gram]:
    # Line by line: a run does not go on from one field, or one speaker, to the next.
    lines = expanded(card, card_text(card)).splitlines()
    return {gram for line in lines for gram in grams(_tokens(line, card, language), _ORDER[language])}


def _tokens(text: str, card: CharacterCard, language: Language) -> list[str]:
    """The units of a text with everybody called by one name."""
    names = sorted({card.name, card.display_name, *card.aliases} - {""}, key=len, reverse=True)
    word = "我" if language == "zh" else " I "
    text = re.sub(rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, names))})(?![A-Za-z])", word, text) if names else text
    if language == "zh":
        return unit_list(text.translate(_SAME_ZH))
    return [part for token in unit_list(text) for part in _SAME_EN.get(token.replace("’", "'"), token).split()]

"""The abstention of terms that know Chinese and English alone, shared so that all of them abstain together."""

from __future__ import annotations

from reward.per_card import PerCard
from reward.spans import visible
from reward.text import covered
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
from rlrp.protocols import TermScore

_MAX_CHARACTERS = 4000


def not_covered(term: str, sample: Sample) -> TermScore | None:
    """The abstention of ``term``, with its reason, where reply or card is in another language; else None."""
    what = "card" if not _card_covered(sample.card) else "reply"
    if what == "reply" and covered(visible(sample.reply[:_MAX_CHARACTERS])):
        return None
    return TermScore(None, (f"{term}: the {what} is in a language that it does not know, only Chinese and English",))


def _covers(card: CharacterCard) -> bool:
    text = "\n".join((card.description, card.personality, card.scenario, card.greeting, card.examples))
    return covered((text if text.strip() else card.name)[:_MAX_CHARACTERS])


_card_covered = PerCard(_covers)

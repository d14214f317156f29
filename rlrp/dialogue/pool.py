"""Cards with their dialogues and contrasts, some of the cards held out: a character is trained on or tested on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from rlrp.cards import CharacterCard, read_cards
from rlrp.dialogue.items import Contrast, read_contrasts, shortened
from rlrp.dialogue.readers import read_dialogues
from rlrp.dialogue.sources import resolve
from rlrp.dialogue.types import Dialogue
from rlrp.errors import UserError
from rlrp.files import read_json

Paths = str | Path | Sequence[str | Path]
HeldOut = float | str | Path | Sequence[str]

_PLACE = "held_out"


@dataclass(frozen=True)
class Pool:
    """Everything about a set of characters, seen as two disjoint parts.

    A dialogue with a card of its own (not one of ``cards``) is held out if a held-out card has the same name;
    a dialogue without a card is for training.

    Args:
        cards: by slug.
        held_out: the slugs that training must not see.
    """

    cards: Mapping[str, CharacterCard]
    dialogues: tuple[Dialogue, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    held_out: frozenset[str] = frozenset()

    @property
    def train_cards(self) -> dict[str, CharacterCard]:
        return {slug: card for slug, card in self.cards.items() if slug not in self.held_out}

    @property
    def held_out_cards(self) -> dict[str, CharacterCard]:
        return {slug: card for slug, card in self.cards.items() if slug in self.held_out}

    @property
    def train_dialogues(self) -> tuple[Dialogue, ...]:
        return self._dialogues(held_out=False)

    @property
    def held_out_dialogues(self) -> tuple[Dialogue, ...]:
        return self._dialogues(held_out=True)

    @property
    def train_contrasts(self) -> tuple[Contrast, ...]:
        return tuple(contrast for contrast in self.contrasts if contrast.card_slug not in self.held_out)

    @property
    def held_out_contrasts(self) -> tuple[Contrast, ...]:
        return tuple(contrast for contrast in self.contrasts if contrast.card_slug in self.held_out)

    def slug_of(self, card: CharacterCard) -> str | None:
        """The slug of one of the pool's cards; None for any other card."""
        return next((slug for slug, own in self.cards.items() if own is card or own == card), None)

    def _dialogues(self, *, held_out: bool) -> tuple[Dialogue, ...]:
        # By identity first: readers hand out the pool's own objects, and comparing whole cards is slow.
        own = {id(card): slug in self.held_out for slug, card in self.cards.items()}
        names = {card.name for card in self.held_out_cards.values()}
        return tuple(
            dialogue
            for dialogue in self.dialogues
            if held_out == (dialogue.card is not None and own.get(id(dialogue.card), dialogue.card.name in names))
        )


def load_pool(
    *,
    cards: Paths,
    dialogues: Paths | None,
    contrasts: Paths | None = None,
    held_out: HeldOut = 0.0,
    seed: int = 0,
) -> Pool:
    """Read a pool; every path may be ``builtin:``, and several paths are read one after the other.

    Args:
        held_out: a fraction of the cards (at least 0, below 1; rounded up, chosen by hash of the slug and ``seed``,
            so that a slug's turn does not depend on the other cards' order); or slugs; or the path of a ``.json``
            file with a list of slugs or ``{"en": [slugs], "zh": [slugs]}``, of which the languages of the cards
            are taken.

    Raises:
        UserError: what the readers refuse; two cards with one slug; a held-out slug that names no card; no cards
            or no dialogues left to train on.
    """
    by_slug = _read_all_cards(_as_paths(cards))
    read = [item for path in _as_paths(dialogues) for item in read_dialogues(resolve(path), by_slug)]
    pairs = [item for path in _as_paths(contrasts) for item in read_contrasts(resolve(path), by_slug)]
    pool = Pool(by_slug, tuple(read), tuple(pairs), _held_out_slugs(held_out, by_slug, seed))
    if not pool.train_cards:
        raise UserError(f"all {len(by_slug)} cards are held out: none is left to train on", place=_PLACE)
    if pool.dialogues and not pool.train_dialogues:
        raise UserError(f"all {len(read)} dialogues belong to held-out cards: none is left to train on", place=_PLACE)
    return pool


def _as_paths(paths: Paths | None) -> Sequence[str | Path]:
    if paths is None:
        return ()
    return (paths,) if isinstance(paths, str | Path) else paths


def _read_all_cards(paths: Sequence[str | Path]) -> dict[str, CharacterCard]:
    cards: dict[str, CharacterCard] = {}
    for path in paths:
        more = read_cards(resolve(path))
        if twice := sorted(cards.keys() & more.keys()):
            raise UserError(f"a second card called {twice[0]!r}; rename one", file=path)
        cards |= more
    if not cards:
        raise UserError("no cards; give a card file or a folder of them", place="cards")
    return cards


def _held_out_slugs(held_out: HeldOut, cards: Mapping[str, CharacterCard], seed: int) -> frozenset[str]:
    if isinstance(held_out, bool):
        raise UserError(f"got {held_out}, expected a fraction, slugs or a .json file", place=_PLACE)
    if isinstance(held_out, int | float):
        return frozenset(_draw(held_out, cards, seed))
    if isinstance(held_out, str | Path):
        return _known(_split_file(held_out, cards), cards, file=held_out)
    return _known(held_out, cards, file=None)


def _draw(fraction: float, cards: Mapping[str, CharacterCard], seed: int) -> list[str]:
    if not 0 <= fraction < 1:
        raise UserError(f"got {fraction}, expected a fraction of at least 0 and below 1", place=_PLACE)
    # As a decimal, since the nearest float to 0.07 times 100 is above 7 and would be rounded up to 8.
    count = math.ceil(len(cards) * Fraction(str(fraction)))
    return sorted(cards, key=lambda slug: hashlib.sha256(f"{seed}\n{slug}".encode()).digest())[:count]


def _split_file(path: str | Path, cards: Mapping[str, CharacterCard]) -> list[str]:
    content = read_json(resolve(path))
    if isinstance(content, dict):
        languages = sorted({card.language for card in cards.values()})
        missing = [language for language in languages if language not in content]
        if missing:
            raise UserError(f"no list for {missing[0]!r}; it has {shortened(sorted(content))}", file=path)
        content = [slug for language in languages for slug in _as_list(content[language], path, language)]
    return _as_list(content, path, None)


def _as_list(value: object, path: str | Path, place: str | None) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError("expected a list of slugs, or lists of slugs by language", file=path, place=place)
    return value


def _known(slugs: Sequence[str], cards: Mapping[str, CharacterCard], file: str | Path | None) -> frozenset[str]:
    unknown = sorted(set(slugs) - set(cards))
    if unknown:
        there = shortened(sorted(cards))
        raise UserError(f"no card is called {unknown[0]!r}; there are {there}", file=file, place=_PLACE)
    return frozenset(slugs)

"""Cards on disk: ``.json``, ``.png`` (also animated), ``.charx``, and ``.jsonl`` with a card a line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

from rlrp.cards import charx, png
from rlrp.cards.jsonio import dump_json, load_json, read_bytes, write_bytes
from rlrp.cards.macros import unknown_macros
from rlrp.cards.model import CharacterCard
from rlrp.cards.parse import card_to_dict, parse_card
from rlrp.errors import UserError

_SUFFIXES = (".json", ".png", ".apng", ".charx")
_IMAGES = (".png", ".apng")


def read_card(path: str | Path) -> CharacterCard:
    """Read one card from ``.json``, ``.png``, ``.apng`` or ``.charx``; macros nobody knows give a warning."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise UserError(f"a card file ends in {', '.join(_SUFFIXES)}", file=path)
    data, place = read_bytes(path), None
    if suffix in _IMAGES:
        data, keyword = png.read_card_json(data, file=path)
        place = f"{keyword} chunk"
    elif suffix == ".charx":
        data, place = charx.read_card_json(data, file=path), charx.CARD_MEMBER
    return _checked(parse_card(load_json(data, file=path, place=place), file=path), path)


def read_cards(path: str | Path) -> dict[str, CharacterCard]:
    """Read a card file, a folder of them (not its subfolders), or a ``.jsonl`` file with a card a line.

    Returns:
        cards by slug, sorted: the file's stem, or for a line its ``id``, else the stem and the line number.

    Raises:
        UserError: a card is wrong, two have the same slug, or there is none.
    """
    path = Path(path)
    if path.suffix.lower() == ".jsonl" and not path.is_dir():
        cards = _read_lines(path)
    elif path.is_dir():
        cards = {}
        for file in _card_files(path):
            _add(cards, file.stem, read_card(file), file, None)
    else:
        cards = {path.stem: read_card(path)}
    if not cards:
        expected = "lines with cards" if path.is_file() else f"files ending in {', '.join(_SUFFIXES)}"
        raise UserError(f"no cards here; expected {expected}", file=path)
    return dict(sorted(cards.items()))


def _card_files(folder: Path) -> list[Path]:
    try:
        files = [file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file()]
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=folder) from error
    return sorted(file for file in files if not file.name.startswith("."))


def _read_lines(path: Path) -> dict[str, CharacterCard]:
    cards: dict[str, CharacterCard] = {}
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        value = load_json(line, file=path, place=place)
        try:
            card = _checked(parse_card(value), path)
        except UserError as error:
            where = f"{place}, {error.place}" if error.place else place
            raise UserError(error.message, file=path, place=where) from error
        slug = value.get("id")
        _add(cards, slug if isinstance(slug, str) and slug else f"{path.stem}-{number:05d}", card, path, place)
    return cards


def _add(cards: dict[str, CharacterCard], slug: str, card: CharacterCard, file: Path, place: str | None) -> None:
    if slug in cards:
        raise UserError(f"a second card called {slug!r}; rename one", file=file, place=place)
    cards[slug] = card


def _checked(card: CharacterCard, path: Path) -> CharacterCard:
    texts = (
        card.description,
        card.personality,
        card.scenario,
        card.greeting,
        card.examples,
        card.system_prompt,
        card.post_history_instructions,
        *card.alternate_greetings,
    )
    unknown = sorted({macro for text in texts for macro in unknown_macros(text)})
    if unknown:
        shown = ", ".join(macro[:40] for macro in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        warnings.warn(f"{path}: unknown macros stay in the text as they are: {shown}", stacklevel=3)
    return card


def write_card(
    card: CharacterCard,
    path: str | Path,
    *,
    container: str | Path | None = None,
    spec: Literal["v2", "v3"] | None = None,
) -> None:
    """Write a card whole or not at all, in the form that the file's ending says.

    A ``.png`` carries both a V2 (``chara``) and a V3 (``ccv3``) copy, a ``.charx`` the V3 form.

    Args:
        container: a ``.png`` or ``.charx`` file whose picture or assets to keep; default the file at ``path``
            where there is one, else a plain picture or no assets.
        spec: for ``.json``; default V3 for a card read as V3, else V2.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    kept = Path(container) if container is not None else path if path.exists() else None
    if suffix == ".json":
        write_bytes(path, _json(card, spec or ("v3" if card.spec == "v3" else "v2"), path, indent=2) + b"\n")
    elif suffix in _IMAGES:
        image = png.blank_image(card.name) if kept is None else read_bytes(kept)
        texts = {"chara": _json(card, "v2", path), "ccv3": _json(card, "v3", path)}
        write_bytes(path, png.write_card_json(image, texts, file=kept))
    elif suffix == ".charx":
        assets = {} if kept is None else charx.read_assets(read_bytes(kept), file=kept)
        _warn_of_lost_assets(card, set(assets), path)
        write_bytes(path, charx.write_charx(_json(card, "v3", path), assets))
    else:
        raise UserError(f"a card file ends in {', '.join(_SUFFIXES)}", file=path)


def _json(card: CharacterCard, spec: Literal["v2", "v3"], path: Path, *, indent: int | None = None) -> bytes:
    try:
        return dump_json(card_to_dict(card, spec=spec), indent=indent)
    except (TypeError, ValueError) as error:
        raise UserError(f"the card holds a value that JSON cannot: {error}", file=path) from error


def _warn_of_lost_assets(card: CharacterCard, present: set[str], path: Path) -> None:
    """The specification asks to tell the user when an asset the card names is not saved with it."""
    assets: Any = card.extras.get("assets")
    uris = (
        [str(asset.get("uri", "")) for asset in assets if isinstance(asset, dict)] if isinstance(assets, list) else []
    )
    lost = [uri for uri in uris if uri.startswith("embeded://") and uri.removeprefix("embeded://") not in present]
    if lost:
        warnings.warn(f"{path}: assets named by the card are not in the file: {', '.join(lost[:5])}", stacklevel=3)

"""Files of single items: what a user may say (prompts), and matched right and wrong replies (contrasts)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrp.cards import CharacterCard
from rlrp.errors import UserError
from rlrp.files import read_jsonl


@dataclass(frozen=True)
class UserPrompt:
    """Something a user may say to any character.

    Args:
        kind: what sort of line it is, e.g. ``provocation`` or ``bait``; "" if the file does not say.
        then: what the user says after the character's replies, in a scripted conversation.
    """

    id: str
    kind: str
    text: str
    then: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """One user line with a reply in role and one that has a known fault.

    Args:
        kind: the fault, e.g. ``biography``, ``speaks_for_user`` or ``over_cooperative``.
    """

    id: str
    card_slug: str
    card: CharacterCard
    kind: str
    user: str
    in_role: str
    faulty: str


def read_prompts(path: str | Path) -> list[UserPrompt]:
    """Read a ``.jsonl`` file of ``{"id", "kind", "text", "then": [...]}``, of which only ``text`` must be there.

    Raises:
        UserError: no lines, an empty text, a field that is not text (``then``: a list of texts), or an id that occurs
            twice.
    """
    path = Path(path)
    prompts = []
    for number, line in read_jsonl(path):
        default = {"id": f"{path.stem}-{number:05d}", "kind": ""}
        fields = texts_of(default | line, ("id", "kind", "text"), path, number, may_be_empty=("kind",))
        prompts.append(UserPrompt(**fields, then=_then(line.get("then", []), path, number)))
    require_unique(path, [prompt.id for prompt in prompts], "prompt")
    return prompts


def _then(value: object, path: Path, number: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UserError(
            f"got {type(value).__name__}, expected a list of texts", file=path, place=f"line {number}, then"
        )
    return tuple(checked_text(text, path, f"line {number}, then {at}") for at, text in enumerate(value, start=1))


def read_contrasts(path: str | Path, cards: Mapping[str, CharacterCard]) -> list[Contrast]:
    """Read matched pairs from a ``.jsonl`` file or a folder of them, cards by slug.

    Each line is ``{"id", "card": slug, "kind", "user", "in_role", "faulty"}``.

    Raises:
        UserError: a field is missing or empty, no card has the slug, the two replies are equal, an id occurs twice,
            or there is nothing to read.
    """
    contrasts = []
    for file in jsonl_files(path):
        for number, line in read_jsonl(file):
            fields = texts_of(line, ("id", "card", "kind", "user", "in_role", "faulty"), file, number)
            slug = fields.pop("card")
            card = card_of_slug(slug, cards, file, number)
            if fields["in_role"] == fields["faulty"]:
                raise UserError("in_role and faulty are the same text", file=file, place=f"line {number}")
            contrasts.append(Contrast(card_slug=slug, card=card, **fields))
    require_unique(path, [contrast.id for contrast in contrasts], "contrast")
    return contrasts


def jsonl_files(path: str | Path) -> list[Path]:
    """The file itself, or the ``.jsonl`` files of a folder (not its subfolders) in the order of their names."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.glob("*.jsonl") if file.is_file() and not file.name.startswith("."))
    if not files:
        inner = sorted(folder.name for folder in path.iterdir() if any(folder.glob("*.jsonl")))
        hint = f"; its folders have some: {', '.join(inner[:8])}" if inner else ""
        raise UserError(f"no .jsonl files in this folder{hint}", file=path)
    return files


def card_of_slug(slug: str, cards: Mapping[str, CharacterCard] | None, file: Path, number: int) -> CharacterCard:
    """The card called ``slug``; an unknown one is the user's error."""
    place = f"line {number}, card"
    if cards is None:
        raise UserError(f"names the card {slug!r}, but no cards were given", file=file, place=place)
    if slug not in cards:
        raise UserError(f"no card is called {slug!r}; there are {shortened(sorted(cards))}", file=file, place=place)
    return cards[slug]


def texts_of(
    line: Mapping[str, Any], keys: tuple[str, ...], file: Path, number: int, *, may_be_empty: tuple[str, ...] = ()
) -> dict[str, str]:
    """The fields ``keys`` of a line, all of them text and none blank but those that may be."""
    for key in keys:
        place = f"line {number}, {key}"
        if key not in line:
            raise UserError("missing", file=file, place=place)
        checked_text(line[key], file, place, may_be_empty=key in may_be_empty)
    return {key: line[key] for key in keys}


def checked_text(value: object, file: Path, place: str, *, may_be_empty: bool = False) -> str:
    """``value`` if it is text that can be written as UTF-8 and, as a rule, is not blank."""
    if not isinstance(value, str):
        raise UserError(f"got {type(value).__name__}, expected text", file=file, place=place)
    if not value.strip() and not may_be_empty:
        raise UserError("is empty", file=file, place=place)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON's \ud83d alone, as where an emoji was cut in two
        raise UserError(f"half a character at position {error.start + 1}; delete it", file=file, place=place) from None
    return value


def require_unique(path: str | Path, ids: list[str], what: str) -> None:
    """Refuse a file or folder that held nothing, or the same id twice."""
    if not ids:
        raise UserError(f"holds no {what}s", file=path)
    seen: set[str] = set()
    for identifier in ids:
        if identifier in seen:
            raise UserError(f"a second {what} has the id {identifier!r}; ids must differ", file=path)
        seen.add(identifier)


def shortened(names: list[str], most: int = 8) -> str:
    """The names with commas, cut after ``most``."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")

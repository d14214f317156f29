"""Character cards from and to JSON, versions 1 to 3.

Specifications: malfoyslastname/character-card-spec-v2 (V1, V2) and kwaroran/character-card-spec-v3.
"""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rlrp.cards.fields import Fields
from rlrp.cards.lorebook_io import lorebook_to_dict, parse_lorebook
from rlrp.cards.model import CharacterCard, Spec

_SPECS: dict[str, tuple[Spec, float]] = {"chara_card_v2": ("v2", 2.0), "chara_card_v3": ("v3", 3.0)}

# The name in the file, and the name in CharacterCard.
_TEXTS = {
    "description": "description",
    "personality": "personality",
    "scenario": "scenario",
    "first_mes": "greeting",
    "mes_example": "examples",
    "system_prompt": "system_prompt",
    "post_history_instructions": "post_history_instructions",
}
_V1_KEYS = ("name", "description", "personality", "scenario", "first_mes", "mes_example")
_RLRP_KEYS = ("aliases", "self_reference", "illeist", "gender")
_DEFAULTS: dict[str, Any] = {"creator_notes": "", "creator": "", "character_version": ""}
_MAX_NAME_CHARACTERS = 200


def parse_card(obj: object, *, file: str | Path | None = None) -> CharacterCard:
    """Read a card from JSON: V3 or V2 by its ``spec``, else V1, of which only ``name`` must be there.

    Args:
        obj: what ``json.loads`` made of the card, or the plain ``{"name", "description"}``.
        file: for error messages.

    Raises:
        UserError: not an object, no name, or a field of the wrong type; the message names the field.
    """
    top = Fields.of(obj, file=file)
    spec_name = top.values.get("spec")
    if top.take("spec") is None:
        _refuse_lost_spec(top)
        return _parse_data(top, "v1", {})
    if not isinstance(spec_name, str) or spec_name not in _SPECS:
        raise top.error("spec", f"got {str(spec_name)[:50]!r}, expected one of {', '.join(_SPECS)}, or none for V1")
    spec, version = _SPECS[spec_name]
    _warn_if_newer(top, version)
    data = Fields.of(top.take("data"), file=file, place="data")
    return _parse_data(data, spec, top.rest())


def _refuse_lost_spec(top: Fields) -> None:
    if "name" not in top.values and isinstance(top.values.get("data"), Mapping):
        raise top.error("spec", f"missing beside data; expected one of {', '.join(_SPECS)}")
    if "name" not in top.values and "entries" in top.values:
        raise top.error("name", "missing; this is a lorebook, not a card")


def _warn_if_newer(top: Fields, known: float) -> None:
    try:
        version = float(str(top.values.get("spec_version") or known))
    except ValueError:
        return
    if version > known:
        where = f"{top.file}: " if top.file else ""
        warnings.warn(
            f"{where}spec_version {version} is newer than {known}; its new fields are kept, not used", stacklevel=3
        )


def _parse_data(data: Fields, spec: Spec, top_level: dict[str, Any]) -> CharacterCard:
    name = data.text("name").strip()
    if not name:
        raise data.error("name", "missing or empty; a card needs the character's name")
    if len(name) > _MAX_NAME_CHARACTERS:
        raise data.error("name", f"{len(name)} characters; a name has at most {_MAX_NAME_CHARACTERS}")
    extensions = data.mapping("extensions")
    own = _parse_rlrp(extensions, data)
    texts: dict[str, Any] = {field: data.text(key) for key, field in _TEXTS.items()}
    _warn_if_misspelt(extensions, data)
    book = data.take("character_book")
    return CharacterCard(
        name=name,
        nickname=data.text("nickname").strip(),
        **texts,
        alternate_greetings=data.texts("alternate_greetings"),
        lorebook=None if book is None else parse_lorebook(book, file=data.file, place=data.path("character_book")),
        tags=data.texts("tags"),
        **own,
        extensions=extensions,
        extras=data.rest(),
        top_level=top_level,
        spec=spec,
    )


def _parse_rlrp(extensions: Mapping[str, Any], data: Fields) -> dict[str, Any]:
    """The fields of ours that no specification has, from ``extensions.rlrp``."""
    place = data.path("extensions.rlrp")
    value = extensions.get("rlrp")
    own = Fields.of({} if value is None else value, file=data.file, place=place)
    illeist = None if own.take("illeist") == "auto" else own.take("illeist")
    if illeist is not None and not isinstance(illeist, bool):
        raise own.error("illeist", 'expected true, false or "auto"')
    return {
        "aliases": own.texts("aliases"),
        "self_reference": own.texts("self_reference"),
        "illeist": illeist,
        "gender": own.text("gender") or None,
    }


def _warn_if_misspelt(extensions: Mapping[str, Any], data: Fields) -> None:
    """Other programs may add to our object, so that an unknown field is no error; a typo is still worth a word."""
    for key in set(extensions.get("rlrp") or {}) - set(_RLRP_KEYS):
        close = difflib.get_close_matches(key, _RLRP_KEYS, n=1)
        if close:
            where = f"{data.file}: " if data.file else ""
            path = data.path(f"extensions.rlrp.{key}")
            warnings.warn(f"{where}{path} is not used; did you mean {close[0]}?", stacklevel=4)


def card_to_dict(card: CharacterCard, *, spec: Literal["v2", "v3"] = "v2") -> dict[str, Any]:
    """The card as JSON of version 2 or 3, with every field it was read with; shares nothing with ``card``."""
    data: dict[str, Any] = {"name": card.name}
    data.update({key: getattr(card, field) for key, field in _TEXTS.items()})
    data.update(alternate_greetings=list(card.alternate_greetings), tags=list(card.tags))
    if card.nickname:
        data["nickname"] = card.nickname
    if card.lorebook is not None:
        data["character_book"] = lorebook_to_dict(card.lorebook)
    data["extensions"] = _extensions(card)
    defaults = {**_DEFAULTS, "group_only_greetings": []} if spec == "v3" else _DEFAULTS
    data = {**defaults, **data, **{key: value for key, value in card.extras.items() if key not in data}}
    top = dict(card.top_level)
    top.update({key: data[key] for key in _V1_KEYS if key in top})  # SillyTavern repeats them; they must not age
    read_version = top.pop("spec_version", None)
    version = read_version if read_version and card.spec == spec else f"{spec[1]}.0"
    result = {"spec": f"chara_card_{spec}", "spec_version": version, "data": data}
    return copy.deepcopy({**result, **{key: value for key, value in top.items() if key not in result}})


def _extensions(card: CharacterCard) -> dict[str, Any]:
    """The extensions as read, with what has changed since in ``rlrp``."""
    extensions = dict(card.extensions)
    stored = extensions.get("rlrp")
    own = dict(stored) if isinstance(stored, Mapping) else {}
    before = _parse_rlrp({"rlrp": own}, Fields({}))
    for key in _RLRP_KEYS:
        value = getattr(card, key)
        if value != before[key]:
            own[key] = list(value) if isinstance(value, tuple) else value
    if own or "rlrp" in extensions:
        extensions["rlrp"] = own
    return extensions

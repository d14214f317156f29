"""Against the published specifications and a published set of cards, where they are at hand."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from rlrp.cards import card_to_dict, parse_card, render_system_prompt

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("RLRP_SHARED", ROOT / "../shared")) / "data"


def read(name: str) -> str:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not here; set RLRP_SHARED to the folder whose data/ has it")
    return path.read_text(encoding="utf-8")


def declared_fields(specification: str, declaration: str, end: str) -> dict[str, bool]:
    """The fields of ``data`` in a TypeScript declaration, and whether each is mandatory."""
    body = specification[specification.index(declaration) :]
    body = body[body.index("data: {") :]
    body = body[: body.index(end)]
    return {name: not optional for name, optional in re.findall(r"^    (\w+)(\?)?:", body, re.MULTILINE)}


@pytest.mark.parametrize(
    ("name", "declaration", "spec", "count"),
    [
        ("specs/character-card-spec-v2/spec_v2.md", "type TavernCardV2", "v2", 15),
        ("specs/character-card-spec-v3/SPEC_V3.md", "interface CharacterCardV3", "v3", 22),
    ],
)
def test_every_mandatory_field_of_the_specification_is_written(
    name: str, declaration: str, spec: str, count: int
) -> None:
    fields = declared_fields(read(name), declaration, "\n  }")
    assert len(fields) == count
    written = card_to_dict(parse_card({"name": "N"}), spec=spec)  # type: ignore[arg-type]
    missing = [field for field, mandatory in fields.items() if mandatory and field not in written["data"]]
    assert missing == []


def test_published_cards_render_and_come_back() -> None:
    descriptions = json.loads(read("sarft_rolebench_cards/desc.json"))
    assert len(descriptions) == 95
    for name, description in descriptions.items():
        card = parse_card({"name": name, "description": description})
        prompt = render_system_prompt(card)
        assert prompt.startswith(f"You are {name}.\n")
        assert " ".join(description.split()) in " ".join(prompt.split())
        assert parse_card(card_to_dict(card)).description == description

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from rlrp.cards import (
    CharacterCard,
    Lorebook,
    LorebookEntry,
    default_user_name,
    parse_card,
    render_system_prompt,
    render_text,
)
from rlrp.errors import UserError

from .strategies import cards

WATSON = CharacterCard(
    name="Dr Watson",
    nickname="Watson",
    description="{{char}} is a doctor.  \r\n\n\n\nHe knows {{user}}.",
    personality="loyal",
    scenario="Baker Street",
    greeting="Good morning, {{user}}.",
    examples="<START>\n{{user}}: Tea?\nDr Watson: Please.\n<START>\n{{char}}: By Jove!",
    lorebook=Lorebook(
        entries=(
            LorebookEntry(keys=("holmes",), content="@@depth 2\nHolmes is {{char}}'s friend."),
            LorebookEntry(constant=True, content="It is 1889.", position="before_char"),
        )
    ),
    extras={"creator_notes": "SECRET", "creator": "SECRET", "character_version": "SECRET"},
    tags=("SECRET",),
)


def test_default_in_english() -> None:
    assert render_system_prompt(WATSON, user="Ann", history=["Where is Holmes?"]) == (
        "You are Watson.\n"
        "It is 1889.\n"
        "Watson is a doctor.\n\nHe knows Ann.\n"
        "Personality: loyal\n"
        "Scenario: Baker Street\n"
        "Holmes is Watson's friend.\n"
        "Example dialogue:\nAnn: Tea?\nWatson: Please.\n\nWatson: By Jove!\n"
        "Stay in character: speak and act only as Watson, never for Ann."
    )


def test_default_in_chinese() -> None:
    card = CharacterCard(
        name="张飞", description="字翼德。", personality="暴躁", examples="{{user}}：你怕吗\n{{char}}：俺不怕！"
    )
    assert render_system_prompt(card) == (
        "你是张飞。\n字翼德。\n性格：暴躁\n对话示例：\n用户：你怕吗\n张飞：俺不怕！\n始终不离角色：只以张飞的身份说话行动，不替用户说话。"
    )


def test_a_bare_card_costs_two_lines() -> None:
    assert render_system_prompt(CharacterCard(name="N")) == (
        "You are N.\nStay in character: speak and act only as N, never for User."
    )


def test_own_system_prompt_replaces_and_may_quote() -> None:
    card = CharacterCard(name="N", description="D.", system_prompt="Write as {{char}}.")
    assert render_system_prompt(card) == "Write as N.\nD."
    quoting = replace(card, system_prompt="{{original}} Rhyme.")
    assert render_system_prompt(quoting) == (
        "You are N. Stay in character: speak and act only as N, never for User. Rhyme.\nD."
    )


def test_history_activates_entries() -> None:
    assert "Holmes" not in render_system_prompt(WATSON, history=["Good morning."])


def test_notes_creator_version_and_tags_never_enter() -> None:
    everything = (
        "{{ [char, user, instruction, description, personality, scenario, examples, lore_before, lore_after] }}"
    )
    assert "SECRET" not in render_system_prompt(WATSON)
    assert "SECRET" not in render_system_prompt(WATSON, template=everything)


def test_same_seed_same_prompt() -> None:
    card = CharacterCard(name="N", description="{{random:" + ",".join(map(str, range(1000))) + "}}")
    assert render_system_prompt(card, seed=1) == render_system_prompt(card, seed=1)
    assert render_system_prompt(card, seed=1) != render_system_prompt(card, seed=2)


def test_template() -> None:
    template = (
        "{{ instruction }}\n{% if scenario %}\n[{{ scenario }}]\n{% endif %}\n"
        "{{char}}/{{ user }}/{{ language }}\n{{ closing }}"
    )
    assert render_system_prompt(WATSON, template=template).splitlines() == [
        "You are Watson.",
        "[Baker Street]",
        "Watson/User/en",
        "Stay in character: speak and act only as Watson, never for User.",
    ]


def test_a_card_cannot_write_templates() -> None:
    card = CharacterCard(name="{% raw %}", description="{{ 7 * 7 }}{% if x %}")
    assert render_system_prompt(card, template="{{ char }}: {{ description }}") == "{% raw %}: {{ 7 * 7 }}{% if x %}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ charr }}",
        "{% if %}",
        "{{ char.__class__.__mro__ }}",
        "{{ 1 / 0 }}",
        "{{ card.extras }}",
        "{{ char + 1 }}",
        "{% include 'x' %}",
    ],
)
def test_a_wrong_template_is_the_users_error(template: str) -> None:
    with pytest.raises(UserError, match=r"template: .*a template may use: char, "):
        render_system_prompt(WATSON, template=template)


def test_render_text() -> None:
    assert render_text(WATSON, WATSON.greeting) == "Good morning, User."
    assert render_text(WATSON, "{{original}}, {{char}} & {{user}}", user="Ann", original="So") == "So, Watson & Ann"
    assert default_user_name(parse_card({"name": "张飞"})) == "用户"


@given(cards)
def test_any_card_renders_the_same_twice(card: CharacterCard) -> None:
    first = render_system_prompt(card, history=["x"])
    assert first == render_system_prompt(card, history=["x"])
    assert first == first.strip()
    assert card.system_prompt.strip() or " ".join(card.display_name.split()) in " ".join(first.split())

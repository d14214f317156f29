"""The system prompt of a card.

The default says "You are {{char}}", not "you are an assistant playing {{char}}": the second puts the assistant's mind
behind the mask. It is kept short, since every reply of a run carries it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlrp.cards.examples import format_examples, parse_examples
from rlrp.cards.lorebook import active_entries, estimate_tokens
from rlrp.cards.macros import substitute
from rlrp.cards.model import CharacterCard, Language
from rlrp.errors import UserError


@dataclass(frozen=True)
class _Wording:
    """What the default prompt says beside the card's own words."""

    user: str
    opening: str
    closing: str
    personality: str
    scenario: str
    examples: str
    colon: str


_WORDINGS: dict[Language, _Wording] = {
    "en": _Wording(
        user="User",
        opening="You are {{char}}.",
        closing="Stay in character: speak and act only as {{char}}, never for {{user}}.",
        personality="Personality: ",
        scenario="Scenario: ",
        examples="Example dialogue:\n",
        colon=": ",
    ),
    "zh": _Wording(
        user="用户",
        opening="你是{{char}}。",
        closing="始终不离角色：只以{{char}}的身份说话行动，不替{{user}}说话。",
        personality="性格：",
        scenario="场景：",
        examples="对话示例：\n",
        colon="：",
    ),
}


def default_user_name(card: CharacterCard) -> str:
    """What to call a user without a name: "User", or "用户" for a Chinese card."""
    return _WORDINGS[card.language].user


def render_text(
    card: CharacterCard, text: str, *, user: str | None = None, seed: int | str = 0, original: str = ""
) -> str:
    """One of the card's texts (a greeting, say) with its macros replaced; see ``substitute``."""
    name = default_user_name(card) if user is None else user
    return substitute(text, char=card.display_name, user=name, seed=seed, original=original)


def render_system_prompt(
    card: CharacterCard,
    *,
    user: str | None = None,
    history: Sequence[str] = (),
    template: str | None = None,
    seed: int | str = 0,
    count_tokens: Callable[[str], int] = estimate_tokens,
) -> str:
    """The system prompt: who the character is, what the card says of it, active lorebook entries, examples.

    The card's ``system_prompt`` takes the place of the default instruction, which it may quote as ``{{original}}``.
    ``post_history_instructions`` belong after the history and are not here: ``render_text`` them.

    Args:
        user: the user's name; None for "User" or "用户", after the card's language.
        history: the texts of the messages, oldest first, which activate lorebook entries.
        template: Jinja2 (sandboxed) over char, user, instruction, description, personality, scenario, examples,
            lore_before, lore_after, closing, language; all strings, with macros already replaced. ``instruction``
            is the card's own or the default; ``closing`` asks to stay in character, "" if the card has its own.
        seed: for random macros.
        count_tokens: for the lorebook's token budget.

    Raises:
        UserError: the template is wrong.
    """
    wording = _WORDINGS[card.language]
    name = wording.user if user is None else user
    parts = _parts(card, wording, name, history, seed, count_tokens)
    return _tidy(_default_layout(parts, wording) if template is None else _render_template(template, parts))


def _parts(
    card: CharacterCard,
    wording: _Wording,
    user: str,
    history: Sequence[str],
    seed: int | str,
    count_tokens: Callable[[str], int],
) -> dict[str, str]:
    def expand(text: str, original: str = "") -> str:
        return substitute(text, char=card.display_name, user=user, seed=seed, original=original).strip()

    opening, closing = expand(wording.opening), expand(wording.closing)
    if card.system_prompt.strip():
        separator = " " if card.language == "en" else ""
        opening, closing = expand(card.system_prompt, f"{opening}{separator}{closing}"), ""
    lore = (
        []
        if card.lorebook is None
        else active_entries(card.lorebook, history, expand=expand, count_tokens=count_tokens)
    )
    names = (card.display_name, card.name, *card.aliases)
    blocks = parse_examples(expand(card.examples), char=names, user=(user,))
    return {
        "char": card.display_name,
        "user": user,
        "language": card.language,
        "instruction": opening,
        "closing": closing,
        "description": expand(card.description),
        "personality": expand(card.personality),
        "scenario": expand(card.scenario),
        "examples": format_examples(blocks, char=card.display_name, user=user, colon=wording.colon),
        "lore_before": "\n".join(entry.content for entry in lore if entry.position == "before_char"),
        "lore_after": "\n".join(entry.content for entry in lore if entry.position == "after_char"),
    }


def _default_layout(parts: dict[str, str], wording: _Wording) -> str:
    labelled = (
        ("", "instruction"),
        ("", "lore_before"),
        ("", "description"),
        (wording.personality, "personality"),
        (wording.scenario, "scenario"),
        ("", "lore_after"),
        (wording.examples, "examples"),
        ("", "closing"),
    )
    return "\n".join(label + parts[key] for label, key in labelled if parts[key])


def _render_template(source: str, parts: dict[str, str]) -> str:
    try:
        return _compile(source).render(parts)
    except (
        TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        names = ", ".join(sorted(parts))
        raise UserError(f"{error or type(error).__name__} (a template may use: {names})", place="template") from error


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)


def _tidy(text: str) -> str:
    """One kind of line break, no trailing blanks, no runs of empty lines: they cost tokens and say nothing."""
    lines = "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()

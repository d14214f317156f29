"""Find the words by which a character means itself: language lexicons, exceptions in context, the card's own forms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from reward.text import Language, lower_case
from rlrp.cards import CharacterCard
from rlrp.errors import UserError

LEXICONS = Path(__file__).parent.parent / "lexicons"
_CLAUSE_START = r"(?:^|(?<=[\s，。！？；：、…—“”「」『』\"'~～,.!?;:（(]))"
_OWN_NAME_SHARE = 0.3
"""Own name or alias at this share of the self-mentions in the card's examples makes an illeist; humans: 0.8 %."""


@dataclass(frozen=True)
class Mention:
    """A self-mention at ``start:end``; ``weight`` in (0, 1] is how surely ``form`` means the speaker."""

    start: int
    end: int
    form: str
    weight: float
    kind: Literal["pronoun", "card", "name"] = "pronoun"


@dataclass(frozen=True)
class _Lexicon:
    pattern: re.Pattern[str]
    idioms: re.Pattern[str]
    weights: dict[str, float]


def self_mentions(text: str, language: Language, card: CharacterCard | None = None) -> list[Mention]:
    """Self-mentions in order, without overlaps; longer forms win.

    The card's ``self_reference`` forms count beside the language's; so do name-derived ones such as 俺老张 and 张某 for
    张飞. The card's name itself counts only for an illeist.
    """
    extra = _card_forms(card) if card is not None else ()
    names = _names(card) if card is not None and is_illeist(card) else ()
    lexicon = _lexicon(language, extra, names)
    lowered = lower_case(text) if language == "en" else text
    blocked = [m.span() for m in lexicon.idioms.finditer(lowered)]
    found = []
    for match in lexicon.pattern.finditer(lowered):
        start, end = match.span()
        if any(left <= start and end <= right for left, right in blocked):
            continue
        form = text[start:end]
        key = form.lower()
        kind: Literal["pronoun", "card", "name"] = "card" if form in extra else "name" if form in names else "pronoun"
        found.append(Mention(start, end, form, lexicon.weights.get(key, 1.0), kind))
    return found


def is_illeist(card: CharacterCard) -> bool:
    """Whether the character speaks of itself by name: the card's flag, else the share in greeting and examples.

    Only quoted or unmarked speech of the examples after ``{{char}}:`` counts.
    """
    if card.illeist is not None:
        return card.illeist
    if any(form.strip().lower() in {name.lower() for name in _names(card)} for form in card.self_reference):
        return True
    return _finds_illeism(card.name, card.aliases, card.nickname, card.greeting, card.examples, card.language)


@lru_cache(maxsize=1024)
def _finds_illeism(
    name: str, aliases: tuple[str, ...], nickname: str, greeting: str, examples: str, language: Language
) -> bool:
    from reward.spans import join, split_spans  # spans needs no lexicon; imported late only to keep this file light

    lines = re.findall(r"\{\{char\}\}\s*[:：]\s*(.*)", examples)
    text = "\n".join([greeting, *lines])
    speech = join(text, split_spans(text), "speech")
    own = 0
    for known in {name, nickname, *aliases} - {""}:
        # "I am NAME" and "NAME here" introduce; they are not talking of oneself in the third person.
        own += len(
            re.findall(
                rf"(?<!我是)(?<!我叫)(?<!am )(?<!'m )(?<!is ){re.escape(known)}(?![，,]?\s*(?:here|at your))", speech
            )
        )
    pronouns = len(self_mentions(speech, language))
    return own >= 2 and own / (own + pronouns) >= _OWN_NAME_SHARE


def _names(card: CharacterCard) -> tuple[str, ...]:
    names = {card.name, card.nickname, card.display_name, *card.aliases} - {""}
    if card.language == "en":
        names |= {part for part in card.name.split() if len(part) > 2 and part[0].isupper() and part not in _TITLES}
    return tuple(sorted(names, key=lambda name: (-len(name), name)))


_TITLES = {
    "The",
    "Mr",
    "Mrs",
    "Miss",
    "Sir",
    "Lady",
    "Lord",
    "Captain",
    "Doctor",
    "Count",
    "King",
    "Queen",
    "Unit",
    "Old",
}


def _card_forms(card: CharacterCard) -> tuple[str, ...]:
    forms = {form.strip() for form in card.self_reference if form.strip()}
    if re.fullmatch(r"[\u4e00-\u9fff]{2,4}", card.name):
        surname, last = card.name[0], card.name[-1]
        forms |= {f"俺老{surname}", f"俺老{last}", f"我老{surname}", f"我老{last}", f"{surname}某"}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


@cache
def _read(language: Language) -> dict[str, Any]:
    file = LEXICONS / f"self_{language}.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or not isinstance(data.get("forms"), list):
        raise UserError("a lexicon needs a list 'forms'", file=file)
    for place, form in enumerate(data["forms"]):
        if (
            not isinstance(form, dict)
            or not form.get("form")
            or set(form) - {"form", "before", "after", "opens", "weight"}
        ):
            raise UserError("a form takes form, before, after, opens, weight", file=file, place=f"forms[{place}]")
    return data


@lru_cache(maxsize=512)
def _lexicon(language: Language, extra: tuple[str, ...], names: tuple[str, ...]) -> _Lexicon:
    data = _read(language)
    edge = r"\b" if language == "en" else ""
    rules: dict[str, str] = {}
    weights: dict[str, float] = {}
    for row in data["forms"]:
        form = str(row["form"])
        rules[form] = _rule(row, edge, language)
        weights[form.lower()] = float(row.get("weight", 1.0))
    for form in (*extra, *names):
        if form.lower() not in {known.lower() for known in rules}:
            boundary = r"\b" if form.isascii() else ""
            rules[form] = boundary + _literal(form, language) + boundary
        weights[form.lower()] = 1.0
    ordered = sorted(rules, key=lambda form: -len(form))
    pattern = re.compile(_any_of([rules[form] for form in ordered]))
    idioms = re.compile(_any_of([edge + _literal(idiom, language) + edge for idiom in data.get("idioms", [])]))
    return _Lexicon(pattern, idioms, weights)


def _any_of(rules: Sequence[str]) -> str:
    """One pattern for all; a word boundary that all begin with is looked for once, which takes half the time."""
    if not rules:
        return r"(?!)"
    edge = r"\b" if all(rule.startswith(r"\b") for rule in rules) else ""
    return f"{edge}(?:{'|'.join(rule.removeprefix(edge) for rule in rules)})"


def _literal(form: str, language: Language) -> str:
    """The form as a pattern; English is looked for in lower-cased text, which is far cheaper than ignoring the case."""
    return re.escape(lower_case(form) if language == "en" else form)


def _rule(row: dict[str, Any], edge: str, language: Language) -> str:
    start = _CLAUSE_START if row.get("opens") else ""
    before = "".join(f"(?<!{part})" for part in _alternatives(row.get("before")))
    after = f"(?!{row['after']})" if row.get("after") else ""
    return edge + start + before + _literal(str(row["form"]), language) + edge + after


def _alternatives(before: str | None) -> list[str]:
    """Python wants look-behinds of one width, so ``(?:a|bc)\\s`` becomes one assertion an alternative."""
    if before is None:
        return []
    group = re.fullmatch(r"\(\?:([^()]*)\)(.*)", before)
    return [option + group.group(2) for option in group.group(1).split("|")] if group else [before]

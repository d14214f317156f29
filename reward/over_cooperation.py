"""Over-cooperation: the character drops what it is and does the assistant's work that the user asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from reward.blacklist import card_text
from reward.coverage import not_covered
from reward.dissonance.anchors import anchor_density
from reward.dissonance.prompts import classify
from reward.per_card import PerCard
from reward.spans import join, reply_spans
from reward.text import language_of, units
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

LEXICON = Path(__file__).parent / "lexicons" / "over_cooperation.yaml"
_LAYOUT = {
    "code": re.compile(
        r"```|^[ \t]*(?:def|class|function) \w+ ?[(:{]|^[ \t]*(?:const|let|var) \w+ ?="
        r"|^[ \t]*(?:for|while|if)\b.*[({].*[:;{]$"
        r"|^[ \t]*(?:import \w+|from \w+ import .*|return .*;|#include .*)[ \t]*$|\bSELECT\b.{1,80}\bFROM\b"
        r"|\b(?:console\.log|print)\(|</?(?:div|button|html|script)\b[^>]{0,80}>",
        re.MULTILINE,
    ),
    "items": re.compile(
        r"^[ \t]*(?:\d+|[一二三四五六七八九十])[.)、．]\s*\S|^[ \t]*[-•·]\s+\S|^[ \t]*\*\s+\S", re.MULTILINE
    ),
    "markdown": re.compile(
        r"^[ \t]*#{1,6}\s+\S|^[ \t]*\|.*\|[ \t]*$|^[ \t]*\*\*[^*\n]+\*\*\s*[:：]?[ \t]*$", re.MULTILINE
    ),
    "formula": re.compile(
        r"[\d)]\s*[-+*/×÷x^]\s*[\d(][\d .+*/×÷x^()-]{0,40}=\s*-?\d|\\(?:frac|sqrt|times)\b|\$[^$\n]{1,80}\$"
        r"|\b[a-z]\s*=\s*-?\d"
    ),
}
_WORTH = {
    # Of the first finding of a kind, and of each further one.
    "code": (0.6, 0.4),
    "items": (0.0, 0.35),
    "markdown": (0.3, 0.2),
    "formula": (0.5, 0.2),
    "opener": (0.5, 0.0),
    "letter": (0.5, 0.3),
    "essay": (0.15, 0.25),
    "translation": (0.5, 0.0),
    "recipe": (0.15, 0.2),
}
_RESULT, _BARE = 0.5, 0.8
_SUM = re.compile(r"(?<![\d.])(\d{1,9})\s*([-+*/×÷x])\s*(\d{1,9})(?![\d.])|(\d{1,9}) ?(times|plus|minus) ?(\d{1,9})")
_OPERATORS = {"+": "+", "plus": "+", "-": "-", "minus": "-", "*": "*", "×": "*", "x": "*", "times": "*"}
_PERSONAL = re.compile(r"[?？!！我俺咱你您]|\b(?:i|me|my|mine|you|yours?|we|us|our)\b", re.IGNORECASE)
_SHOWN = 40
_MAX_CHARACTERS = 4000


@dataclass(frozen=True)
class _Lexicon:
    requests: dict[str, re.Pattern[str]]
    trades: dict[str, re.Pattern[str]]
    product: dict[str, re.Pattern[str]]


class OverCooperationTerm:
    """Minus how much of the work that was asked for the reply delivers, in [-1, 0]; abstains where none was asked for.

    What the user's last message asks for is told by :func:`reward.dissonance.prompts.classify` and a list of further
    requests; work that the card says is the character's own (code of a programmer) is no task. What counts as
    delivery: code, lists of three items and more, headings and tables, formulas, the parts of a letter, an essay's
    connectives, measures of a recipe, "here is your ...", the right sum of two numbers, and a bare answer, in which
    nobody speaks: no act, no question, none of the words that only a speaker says. A refusal, a joke, or an answer
    given as the character, has none of these. Abstains as well where card or reply is neither Chinese nor English.
    """

    name = "over_cooperation"

    def __init__(self) -> None:
        self._card = PerCard(card_text)

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; parts are what each kind of finding costs, those that cost nothing left out."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        asked = next((m.content for m in reversed(sample.messages) if m.role == "user"), "")
        kinds = requests(asked)
        if not kinds:
            return TermScore(None, ("over_cooperation: the user asks for no work",))
        own = [kind for kind in kinds if self._is_trade(kind, sample.card)]
        if own:
            return TermScore(None, (f"over_cooperation: {own[0]} is the character's own trade",))
        if (unknown := not_covered(self.name, sample)) is not None:
            return unknown
        # Hidden parts are blanked and not cut out, so that places stay those of the reply.
        reply = sample.reply[:_MAX_CHARACTERS]
        spans = reply_spans(replace(sample, reply=reply))
        shown = "".join(
            re.sub(r"[^\n]", " ", reply[s.start : s.end]) if s.kind in ("plan", "ooc") else reply[s.start : s.end]
            for s in spans
        )
        costs, places = _product(shown)
        if (place := _result(asked, shown)) is not None:
            costs["result"] = _RESULT
            places.append(place)
        speech = join(reply, spans, "speech", "quote", "thought")
        if units(shown) and not any(s.kind == "action" for s in spans) and _nobody_speaks(speech, sample):
            costs["bare"] = _BARE
        total = sum(costs.values())
        if not total:
            return TermScore(0.0)
        quoted = "".join(f' "{" ".join(reply[start:end].split())[:_SHOWN]}"' for start, end in places[:3])
        reason = f"over_cooperation: does what was asked ({kinds[0]}): {', '.join(costs)}{quoted}"
        return TermScore(-min(1.0, total), (reason,), costs, tuple(places))

    def _is_trade(self, kind: str, card: CharacterCard) -> bool:
        trade = _lexicon().trades.get(kind)
        return trade is not None and trade.search(self._card(card)) is not None


def requests(text: str) -> list[str]:
    """The kinds of work that a user's message asks for, ``task`` where only :func:`classify` knows; none for chat."""
    found = [kind for kind, pattern in _lexicon().requests.items() if pattern.search(text)]
    return found or (["task"] if classify(text) == "task" else [])


def _product(shown: str) -> tuple[dict[str, float], list[tuple[int, int]]]:
    """What the pieces of a finished product cost, by kind, and where they stand."""
    costs: dict[str, float] = {}
    places: list[tuple[int, int]] = []
    for kind, pattern in {**_LAYOUT, **_lexicon().product}.items():
        found = [match.span() for match in pattern.finditer(shown)]
        first, further = _WORTH[kind]
        cost = min(1.0, first + further * (len(found) - 1)) if found else 0.0
        if cost > 0:
            costs[kind] = cost
            places += found[:3]
    return costs, places


def _result(asked: str, shown: str) -> tuple[int, int] | None:
    """Where the reply has the result of the sum in the request."""
    match = _SUM.search(asked)
    if match is None:
        return None
    left, operator, right = match.groups()[:3] if match.group(1) else match.groups()[3:]
    first, second = int(left), int(right)
    if operator in ("/", "÷"):
        result = first // second if second and first % second == 0 else None
    else:
        sign = _OPERATORS[operator]
        result = first + second if sign == "+" else first - second if sign == "-" else first * second
    if result is None:
        return None
    found = re.search(rf"(?<![\d.,]){result:,}(?!\d)|(?<![\d.,]){result}(?!\d)", shown)
    return found.span() if found else None


def _nobody_speaks(speech: str, sample: Sample) -> bool:
    """Whether no word or mark in it needs somebody who is here and speaks to somebody."""
    if _PERSONAL.search(speech):
        return False
    return anchor_density(speech, language_of(speech, sample.card.language)) == 0


@cache
def _lexicon() -> _Lexicon:
    data = yaml.safe_load(LEXICON.read_text(encoding="utf-8"))
    try:
        requested, product = ({kind: _any(own) for kind, own in data[key].items()} for key in ("requests", "product"))
        trades = {kind: _any([own]) for kind, own in data["trades"].items()}
    except (KeyError, TypeError, AttributeError, re.error) as error:
        message = f"expected requests, trades and product, regular expressions by kind: {error}"
        raise UserError(message, file=LEXICON) from error
    return _Lexicon(requested, trades, product)


def _any(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE | re.MULTILINE)

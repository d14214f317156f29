"""The scene: does the reply move it on, by an act, a question or proposal, a concrete detail, something new?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import yaml

from reward.blacklist import card_text
from reward.coverage import not_covered
from reward.features import expanded
from reward.per_card import PerCard
from reward.spans import reply_spans
from reward.text import Language, language_of, sentences, unit_list, units
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

LEXICON = Path(__file__).parent / "lexicons" / "scene.yaml"
_LISTS = ("things", "stock", "proposals", "empty")
_THINGS, _NEW = 2, {"en": 4, "zh": 6}
"""Concrete things, and new words (Chinese: pairs of characters), at which the part is full."""
_MARKS = '*()（）[]【】 \n.。!！?？,，…~～"“”「」'


@dataclass(frozen=True)
class _Lexicon:
    things: Callable[[str], set[str]]
    stock: re.Pattern[str]
    proposals: re.Pattern[str]
    empty: re.Pattern[str]


class SceneTerm:
    """0 where the reply moves the scene on at least as much as people's replies do, falling to -1 where it does not.

    Four parts, each in [0, 1] and none paid for twice:

    - ``act``: something done or perceived in asterisks, brackets or (novels) narration; half for a stock gesture
      (nods, 微笑), nothing for one that an earlier turn has had;
    - ``ask``: a question or a proposal to the other; nothing for what an earlier turn asked or for "anything else?";
    - ``detail``: concrete things (a door, rain, a sleeve) that the user's last message does not name; two are enough;
    - ``new``: words that neither the card nor the conversation has; four (Chinese: six pairs of characters) are enough.

    The value is ``-max(0, 1 - sum / enough)``: beyond ``enough`` there is nothing more to earn. Abstains where card or
    reply is neither Chinese nor English.
    """

    name = "scene"

    def __init__(self, *, enough: float = 1.5):
        """``enough``: the sum of the parts, in (0, 4], from which the value is 0."""
        if not 0 < enough <= 4:
            raise UserError(f"got {enough}, expected a number above 0 and at most 4", place="enough")
        self._enough = enough
        self._card = {language: PerCard(partial(_card_words, language)) for language in ("en", "zh")}

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; parts are ``act``, ``ask``, ``detail`` and ``new``."""
        return [not_covered(self.name, sample) or self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        spans = [(s.kind, sample.reply[s.start : s.end]) for s in reply_spans(sample) if s.kind not in ("plan", "ooc")]
        shown = "".join(text for _, text in spans)
        language = language_of(shown, sample.card.language)
        lexicon = _lexicon(language)
        earlier = "\n".join(m.content for m in sample.messages if m.role == "assistant").casefold()
        user = next((m.content for m in reversed(sample.messages) if m.role == "user"), "")
        acts = [text.strip(_MARKS) for kind, text in spans if kind in ("action", "thought")]
        said = "\n".join(text for kind, text in spans if kind in ("speech", "quote"))
        heard = _words("\n".join(m.content for m in sample.messages), language)
        new = len(_words(shown, language) - heard - self._card[language](sample.card))
        parts = {
            "act": max((_act(act, earlier, lexicon) for act in acts), default=0.0),
            "ask": float(_asks(said, earlier, lexicon)),
            "detail": min(1.0, len(lexicon.things(shown) - lexicon.things(user)) / _THINGS),
            "new": min(1.0, new / _NEW[language]),
        }
        value = -max(0.0, 1.0 - sum(parts.values()) / self._enough)
        if value >= 0:
            return TermScore(0.0, (), parts)
        missing = ", ".join(_MISSING[name] for name, part in parts.items() if part < 0.5)
        return TermScore(value, (f"scene: it stands still: {missing}",) if missing else (), parts)


_MISSING = {
    "act": "nothing is done or perceived",
    "ask": "nothing is asked or proposed",
    "detail": "nothing concrete",
    "new": "nothing new",
}


def _act(act: str, earlier: str, lexicon: _Lexicon) -> float:
    if units(act) == 0 or act.casefold() in earlier:
        return 0.0
    return 0.5 if lexicon.stock.fullmatch(act) else 1.0


def _asks(said: str, earlier: str, lexicon: _Lexicon) -> bool:
    for start, end in sentences(said):
        sentence = said[start:end].strip(' \n"”“」「*')
        if sentence.casefold() in earlier or units(sentence) == 0:
            continue
        if sentence.endswith(("?", "？")):
            # "It suits you, right?" asks no more than its last clause does.
            last = re.split(r"[,，、—…]", sentence.rstrip("?？!！ "))[-1].strip()
            if not lexicon.empty.fullmatch(last):
                return True
        elif lexicon.proposals.search(sentence):
            return True
    return False


def _words(text: str, language: Language) -> set[str]:
    """What can be new: words of four letters and more, or in Chinese pairs of neighbouring characters."""
    if language == "en":
        return {word for word in unit_list(text) if len(word) >= 4}
    tokens = unit_list(text)
    return {first + second for first, second in pairwise(tokens)}


def _card_words(language: Language, card: CharacterCard) -> set[str]:
    return _words(expanded(card, card_text(card)), language)


@cache
def _lexicon(language: Language) -> _Lexicon:
    data = yaml.safe_load(LEXICON.read_text(encoding="utf-8")).get(language, {})
    if any(not isinstance(data.get(key), str) for key in _LISTS):
        raise UserError(f"expected the lists {', '.join(_LISTS)}", file=LEXICON, place=language)
    stock, proposals, empty = (re.sub(r"(?<!\\)\s+", "|", data[key].strip()) for key in _LISTS[1:])
    things = frozenset(data["things"].split())
    edge = r"\b" if language == "en" else ""
    tail = r"(?:\s+\w+ly)?(?:\s+at (?:you|him|her|them))?" if language == "en" else ""
    head = r"(?:(?:he|she|they|i|\w+ly)\s+)*" if language == "en" else r"(?:轻轻|微微|缓缓|淡淡)?(?:地|的)?"
    return _Lexicon(
        partial(_things_en, things) if language == "en" else partial(_things_zh, re.compile("|".join(things))),
        re.compile(f"{head}(?:{stock}){tail}", re.IGNORECASE),
        re.compile(f"{edge}(?:{proposals}){edge}", re.IGNORECASE),
        re.compile(empty, re.IGNORECASE),
    )


def _things_en(things: frozenset[str], text: str) -> set[str]:
    found = set()
    for word in unit_list(text):
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            if form in things:
                found.add(form)
                break
    return found


def _things_zh(things: re.Pattern[str], text: str) -> set[str]:
    return set(things.findall(text))

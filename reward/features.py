"""Style features of a reply: how it is written, whatever it says. One code path; the word classes are data files.

Every feature is finite for every string, bounded, and comparable between short and long replies: rates, shares and
logarithms, no raw counts. The reply's length is left out on purpose: faulty replies are longer in most data, so that a
classifier learns to prefer short ones and a policy learns to say nothing; the length guard looks after length.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from reward.spans import Span, split_spans
from reward.text import Language, sentences, unit_list
from rlrp.cards import CharacterCard, default_user_name, substitute
from rlrp.dialogue.types import Sample

VERSION = 4
"""Changes whenever a feature changes its meaning; a model trained on other features is refused."""

LEXICONS = Path(__file__).parent / "lexicons"
_MAX_CHARACTERS = 4000
"""Longer replies are judged by their beginning: the guards deal with length, and regular expressions take time."""

_MARKS = {
    "comma": re.compile(r"[,，、]"),
    "stop": re.compile(r"(?<!\.)\.(?!\.)|。"),
    "exclamation": re.compile(r"[!！]"),
    "question": re.compile(r"[?？]"),
    "ellipsis": re.compile(r"\.\.\.+|…+"),
    "dash": re.compile(r"—+|--+|–"),
    "semicolon": re.compile(r"[;；]"),
    "colon": re.compile(r"[:：]"),
    "quotation": re.compile(r"[\"“”「」『』]"),
    "digits": re.compile(r"\d+"),
    "line_break": re.compile(r"\n"),
    "markdown": re.compile(r"\*\*|^\s*#|`|\|", re.MULTILINE),
    "list_item": re.compile(r"^\s*(?:\d+[.)、]|[-•·*]\s)", re.MULTILINE),
    "capitals": re.compile(r"\b[A-Z]{2,}\b"),
    "capitalised": re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+"),
    "speaker_label": re.compile(r"^\s*[\w ·'’-]{1,24}[:：]\s", re.MULTILINE),
}
_SENTENCE_END = re.compile(r"[.!?~—][\"”’'」』)）*\]]*(?=\s|$)|[。！？…～—][\"”’'」』)）*\]]*|[*）)](?=\s|$)")
_PERIOD_START = re.compile(r"[\"“'‘「『(（*\s]*(?:i\b|i['’]|我|俺)", re.IGNORECASE)

GROUPS: dict[str, tuple[str, ...]] = {
    "sentences": ("sentence_length", "sentence_spread", "short_sentences", "ends_question"),
    "punctuation": ("comma", "stop", "exclamation", "question", "ellipsis", "dash", "semicolon", "colon", "quotation"),
    "layout": ("digits", "line_break", "markdown", "list_item", "speaker_label", "capitals", "capitalised"),
    "actions": ("action_share", "action_count", "opens_with_action", "you_in_action"),
    "vocabulary": ("word_length", "distinct_words", "repeated_trigrams", "latin_share", "starts_with_i"),
    "overlap": ("own_name", "overlap_card", "overlap_user", "overlap_earlier"),
    "word classes": (),  # filled from the language's lexicon
}
_MEASURED = tuple(name for names in GROUPS.values() for name in names)


@lru_cache(maxsize=4)
def word_classes(language: Language) -> dict[str, re.Pattern[str]]:
    """The lexicon's word classes of a language, compiled."""
    data = yaml.safe_load((LEXICONS / f"style_{language}.yaml").read_text(encoding="utf-8"))
    return {name: re.compile(pattern, re.IGNORECASE) for name, pattern in data["classes"].items()}


def feature_names(language: Language) -> tuple[str, ...]:
    """The names of the columns of :func:`style_features`."""
    return (*_MEASURED, *word_classes(language))


def style_features(samples: Sequence[Sample], language: Language) -> NDArray[np.float32]:
    """One row a sample, one column a name of :func:`feature_names`."""
    names = feature_names(language)
    rows = [_row(sample, language) for sample in samples]
    return np.array([[row[name] for name in names] for row in rows], dtype=np.float32).reshape(len(rows), len(names))


def visible_text(reply: str) -> str:
    """What the reader sees of the reply (plans removed), its beginning if it is very long, without a last sentence
    that was broken off: being cut says nothing of the role, and the length guard charges for it."""
    reply = reply[:_MAX_CHARACTERS]
    text = "".join(reply[s.start : s.end] for s in split_spans(reply) if s.kind != "plan").strip()
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


@lru_cache(maxsize=512)
def expanded(card: CharacterCard, text: str) -> str:
    """A text of the card's with its macros replaced, and without the marks between examples; the name if empty."""
    plain = substitute(text, char=card.display_name, user=default_user_name(card))
    return plain.replace("<START>", "").strip() or card.display_name


@lru_cache(maxsize=512)
def card_summary(card: CharacterCard) -> str:
    """The card's own words: who the character is, then how it speaks."""
    parts = (card.display_name, card.description, card.personality, card.scenario, card.greeting, card.examples)
    return expanded(card, "\n".join(part for part in parts if part))


def _row(sample: Sample, language: Language) -> dict[str, float]:
    text = visible_text(sample.reply)
    tokens = unit_list(text)
    spans = split_spans(text)
    hundred = max(len(tokens), 8) / 100  # a one-word reply has no rates worth a hundred percent
    row = {name: _rate(pattern, text, hundred) for name, pattern in _MARKS.items()}
    row |= {name: _rate(pattern, text, hundred) for name, pattern in word_classes(language).items()}
    row |= _lengths(text, tokens)
    row |= _actions(text, spans, language, hundred)
    row |= _vocabulary(text, tokens)
    row |= _overlaps(sample, text, tokens, language)
    return row


def _rate(pattern: re.Pattern[str], text: str, hundred: float) -> float:
    """log(1 + matches per 100 units): the difference of 0 and 1 matters more than that of 10 and 11."""
    return math.log1p(sum(1 for _ in pattern.finditer(text)) / hundred)


def _lengths(text: str, tokens: list[str]) -> dict[str, float]:
    said = [text[start:end] for start, end in sentences(text)]
    sizes = [len(unit_list(sentence)) for sentence in said] or [0]
    return {
        "sentence_length": math.log1p(sum(sizes) / len(sizes)),
        "sentence_spread": float(np.std([math.log1p(size) for size in sizes])),
        "short_sentences": sum(size <= 4 for size in sizes) / len(sizes),
        "ends_question": float(bool(said) and said[-1].rstrip("\"”'’」』)）*").endswith(("?", "？"))),
        "starts_with_i": sum(bool(_PERIOD_START.match(sentence)) for sentence in said) / max(len(said), 1),
    }


def _actions(text: str, spans: tuple[Span, ...], language: Language, hundred: float) -> dict[str, float]:
    acted = [text[span.start : span.end] for span in spans if span.kind == "action"]
    return {
        "action_share": sum(map(len, acted)) / max(len(text), 1),
        "action_count": math.log1p(len(acted)),
        "opens_with_action": float(bool(spans) and spans[0].kind == "action"),
        "you_in_action": _rate(word_classes(language)["second_person"], "\n".join(acted), hundred),
    }


def _vocabulary(text: str, tokens: list[str]) -> dict[str, float]:
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    letters = [character for character in text if character.isalpha()]
    return {
        "word_length": math.log1p(sum(map(len, tokens)) / len(tokens)) if tokens else 0.0,
        # Guiraud's index, which changes less with length than the type-token ratio.
        "distinct_words": len(set(tokens)) / math.sqrt(len(tokens)) / 10 if tokens else 0.0,
        "repeated_trigrams": 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0,
        "latin_share": sum(character.isascii() for character in letters) / max(len(letters), 1),
    }


def _overlaps(sample: Sample, text: str, tokens: list[str], language: Language) -> dict[str, float]:
    own = _bigrams(tokens)
    user = next((m.content for m in reversed(sample.messages) if m.role == "user"), "")
    earlier = "\n".join(m.content for m in sample.messages[-6:] if m.role == "assistant")
    names = {name for name in (sample.card.name, sample.card.display_name, *sample.card.aliases) if name}
    return {
        "own_name": math.log1p(sum(text.count(name) for name in names)),
        "overlap_card": _share(own, _card_bigrams(card_summary(sample.card))),
        "overlap_user": _share(own, _bigrams(unit_list(user[-_MAX_CHARACTERS:]))),
        "overlap_earlier": _share(own, _bigrams(unit_list(earlier[-_MAX_CHARACTERS:]))),
    }


def _bigrams(tokens: Sequence[str]) -> frozenset[tuple[str, str]]:
    return frozenset(itertools.pairwise(tokens))


@lru_cache(maxsize=256)
def _card_bigrams(text: str) -> frozenset[tuple[str, str]]:
    return _bigrams(unit_list(text))


def _share(own: frozenset[tuple[str, str]], other: frozenset[tuple[str, str]]) -> float:
    return len(own & other) / len(own) if own else 0.0

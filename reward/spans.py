"""Split a reply into what is said, done, thought, quoted, out of character and planned.

The marks differ by writing style. In chat style text is speech unless it is marked: ``*nods*``, ``（点头）``,
``[I must run.]``. In novel style speech stands in quotation marks and everything else narrates. The card tells which:
its greeting and examples show how this character's replies are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample

SpanKind = Literal["speech", "action", "thought", "quote", "ooc", "plan"]


@dataclass(frozen=True)
class Span:
    """``text[start:end]`` with its marks is of this kind."""

    kind: SpanKind
    start: int
    end: int


_TAGS: dict[str, SpanKind] = {
    "think": "plan",
    "thinking": "plan",
    "system_thinking": "plan",
    "plan": "plan",
    "role_thinking": "thought",
    "role_action": "action",
}
_TAG = re.compile(r"<(" + "|".join(_TAGS) + r")>", re.IGNORECASE)
_QUOTES = {"「": "」", "『": "』", "“": "”", '"': '"'}
_BRACKETS = {"(": ")", "（": "）", "[": "]", "【": "】"}
_OOC = re.compile(r"\s*(?:ooc|out of character|出戏)\b|\s*(?:ooc|出戏)", re.IGNORECASE)
_SPECIAL = re.compile(r"\*\*+|[<*(（\[【「『“\"]")
_STOPS = ".!?。！？…~～—"
# Verbs or a colon that hand the following quotation to somebody: 他说“…”, he told me "…".
_ATTRIBUTED = re.compile(
    r"(?:(?:说|道|问|喊|叫|骂|答|曰|云|讲|写着?|念)(?:过|了|我|他|她|你|道)?|\b(?:says?|said|told|tells|asked|asks|cried|"
    r"wrote|whispered|shouted|called|replied|answered|muttered|goes|like|reads)\b[^.!?\n\"“]{0,24})[，,：:\s]*$",
    re.IGNORECASE,
)
_LEAD = 80
"""How far before a quotation the verb can stand: a search of the whole line would take the square of its length."""
_ATTRIBUTED_AFTER = re.compile(
    r"[\s，,]*(?:(?:he|she|they|it|the\s+\w+|[A-Z]\w+)\s+(?:said|says|asked|replied|cried|whispered|shouted)\b|"
    r"[他她它][^，。！？\n]{0,6}(?:说|道|问|喊|骂|答))"
)


def split_spans(text: str, *, novel: bool = False) -> tuple[Span, ...]:
    """Partition ``text`` into spans, in order, without gaps; marks belong to the span they open.

    Args:
        text: a reply; any string, marks need not be balanced.
        novel: speech stands in quotation marks and unmarked text narrates. Without it unmarked text is speech and a
            quotation counts as ``quote`` only where it is attributed to somebody.
    """
    base: SpanKind = "action" if novel else "speech"
    spans: list[Span] = []
    done = at = 0
    while match := _SPECIAL.search(text, at):
        found = _marked(text, match.start(), novel)
        if found is None:
            at = match.end()
            continue
        _append(spans, base, done, found.start)
        _append(spans, found.kind, found.start, found.end)
        done = at = found.end
    _append(spans, base, done, len(text))
    return tuple(spans)


def is_novel_style(card: CharacterCard) -> bool:
    """Whether the card's greeting (else its examples) puts speech in quotation marks amid unmarked narration."""
    for sample in (card.greeting, card.examples):
        if sample.strip():
            return looks_novel(sample)
    return False


def looks_novel(text: str) -> bool:
    """Whether ``text`` narrates: quoted sentences beside unmarked prose, with no ``*`` or bracket doing that work."""
    spoken = 0
    for opening, closing in _QUOTES.items():
        for inner in map(str.rstrip, _between(text, opening, closing)):
            if inner and (inner[-1] in _STOPS + ",，-" or len(inner) > 24):
                spoken += len(inner)
    return spoken >= 0.2 * max(1, len(re.sub(r"\*[^*\n]+\*|[（(][^）)\n]*[）)]", "", text)))


def _between(text: str, opening: str, closing: str) -> Iterator[str]:
    """What stands between an opening and the next closing mark on its line."""
    at = 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start + 1)) >= 0:
        inner = text[start + 1 : end]
        at = start + 1 if "\n" in inner else end + 1
        if "\n" not in inner:
            yield inner


def reply_spans(sample: Sample) -> tuple[Span, ...]:
    """Spans of the sample's reply in the style of its card; a reply that is plainly a novel's counts as one too."""
    return split_spans(sample.reply, novel=is_novel_style(sample.card) or _opens_like_novel(sample.reply))


def join(text: str, spans: tuple[Span, ...], *kinds: SpanKind) -> str:
    """The text of the given kinds, one line a span, outer marks stripped."""
    parts = (text[s.start : s.end].strip(' \n*()（）「」『』“”"[]【】') for s in spans if s.kind in kinds)
    return "\n".join(part for part in parts if part)


def visible(text: str) -> str:
    """What the reader sees of a reply: everything but the plan."""
    return "".join(text[s.start : s.end] for s in split_spans(text) if s.kind != "plan").strip()


def _opens_like_novel(text: str) -> bool:
    lead = re.match(r"\s*(?:[“\"「][^”\"」\n]*[,.!?，。！？…—-][”\"」])(?=\s*\S)", text)
    return lead is not None and looks_novel(text) and not re.search(r"\*[^*\n]+\*", text)


def _append(spans: list[Span], kind: SpanKind, start: int, end: int) -> None:
    if start >= end:
        return
    if spans and spans[-1].kind == kind and kind in ("speech", "action"):
        spans[-1] = Span(kind, spans[-1].start, end)
    else:
        spans.append(Span(kind, start, end))


def _marked(text: str, start: int, novel: bool) -> Span | None:
    """The marked span that opens at ``start``, or None if the character there is ordinary text."""
    char = text[start]
    if char == "<":
        return _tagged(text, start)
    if char == "*":
        return _starred(text, start, novel)
    if char in _BRACKETS:
        return _bracketed(text, start)
    return _quoted(text, start, novel)


def _tagged(text: str, start: int) -> Span | None:
    tag = _TAG.match(text, start)
    if tag is None:
        return None
    close = re.compile(rf"</{tag.group(1)}>", re.IGNORECASE).search(text, tag.end())
    # A plan that was cut off by the length limit is still a plan.
    return Span(_TAGS[tag.group(1).lower()], start, close.end() if close else len(text))


def _starred(text: str, start: int, novel: bool) -> Span | None:
    if text.startswith("**", start):
        return None  # bold type
    end = text.find("*", start + 1)
    inner = text[start + 1 : end] if end > 0 else ""
    if not inner.strip() or "\n\n" in inner:
        return None
    if not novel and " " not in inner.strip() and _emphasis(text, start, end + 1):
        return None
    return Span("action", start, end + 1)


def _emphasis(text: str, start: int, end: int) -> bool:
    """One starred word inside a running sentence is stress, not a gesture."""
    before, after = text[:start].rstrip(" ")[-1:], text[end:].lstrip(" ")[:1]
    return (before.isalnum() or before in ",，'") and before != "" and (after.isalnum() or after in ".,!?，。！？")


def _bracketed(text: str, start: int) -> Span | None:
    opening = text[start]
    closing = _BRACKETS[opening]
    doubled = text.startswith(opening * 2, start)
    end = text.find(closing * 2 if doubled else closing, start + 1)
    if end < 0:
        # An unclosed bracket runs to the end of its line only for out-of-character remarks.
        if not (doubled or _OOC.match(text, start + 1)):
            return None
        line_end = text.find("\n", start)
        return Span("ooc", start, line_end if line_end > 0 else len(text))
    end += 2 if doubled else 1
    if doubled or _OOC.match(text, start + 1):
        return Span("ooc", start, end)
    return Span("thought" if opening in "[【" else "action", start, end)


def _quoted(text: str, start: int, novel: bool) -> Span | None:
    end = text.find(_QUOTES[text[start]], start + 1)
    if end < 0 or "\n\n" in text[start:end]:
        return None
    inner = text[start + 1 : end].strip()
    if novel:
        # Scare quotes in narration: no closing stop and only a word or two.
        said = inner[-1:] in _STOPS + ",，-" or len(inner.split()) > 3 or len(inner) > 12
        return Span("speech", start, end + 1) if said else None
    line = text[max(text.rfind("\n", 0, start) + 1, start - _LEAD) : start]
    if _ATTRIBUTED.search(line) or _ATTRIBUTED_AFTER.match(text, end + 1):
        return Span("quote", start, end + 1)
    return None

"""Speaking and acting for the user: the reply writes the other player's lines or narrates what that player does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from reward.coverage import not_covered
from reward.spans import Span, reply_spans
from rlrp.dialogue import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

ACTS = Path(__file__).parent / "lexicons" / "user_acts.yaml"
# A line that opens as the user's turn. 你: and You: count only after a first line: a reply may open "You: a thief?".
_LABEL = r"(?:\{{\{{user\}}\}}|<user>|<\|im_start\|>user|<\|user\|>|\[user\]|user|human|用户|玩家{names})"
_ADVERBS = r"(?:(?:then|now|just|simply|only|both|can(?:'|no)t help but|\w+ly)\s+)*"
_STATES = "stunned frozen hungry overcome ashamed relieved convinced trembling shaking speechless breathless moved"
_BODY = "eyes heart hands? face cheeks lips breath knees voice legs fingers body shoulders jaw mouth"
_AUXILIARIES = "is are was were will would must can"
_TALK = "are were have had said should must can know"
# 你刚才说“…” quotes back what the user said before.
_QUOTING_BACK = "刚才|方才|刚刚|昨|上次|不是|曾|当年|以前|说过|别|总|老|常|要是|如果"
_MARKS = "*()（） \n"
_RELATIVES = "(?![爸妈爹娘们哥姐弟妹爷奶舅叔])"


@dataclass(frozen=True)
class _Patterns:
    narrated: tuple[re.Pattern[str], ...]
    plain: tuple[re.Pattern[str], ...]
    quoted: tuple[re.Pattern[str], ...]


class SpeaksForUserTerm:
    """-1 for writing the user's turn, less for quoting words into the user's mouth or narrating what the user does.

    The value is minus the sum of the findings, at least -1: a line labelled as the user's 1, a quotation given to the
    user 0.7, a narrated act 0.5 inside action spans (narration, in a novel) and 0.4 in unmarked text. Where reply or
    card is neither Chinese nor English, only the labels are known; without one the term abstains.
    """

    name = "speaks_for_user"

    def __init__(self, *, user_name: str | None = None):
        """``user_name``: the name the user goes by; a line that opens with it is the user's, and so are its acts."""
        named = re.escape(user_name) if user_name else ""
        label = _LABEL.format(names=f"|{named}" if named else "")
        marks = r"(?:\*\*)?"
        opening = rf"(?:^\s*|\n[^\S\n]*){marks}{label}{marks}\s*[：:>](?!//)|\n[^\S\n]*(?:you|你)\s*[：:]"
        self._label = re.compile(opening, re.IGNORECASE)
        self._named = (
            re.compile(rf"(?:^|[.!?。！？*]\s*){named}(?:\s+\w+s\b|[点摇低抬笑跟转走坐站])") if named else None
        )

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; part ``weight`` is the sum of the findings before the cap."""
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> TermScore:
        spans, unknown = reply_spans(sample), not_covered(self.name, sample)
        found = self._labels(sample.reply, spans)
        if unknown is None:
            found += self._findings(sample.reply, spans)
        elif not found:
            return unknown
        weight = sum(weight for weight, _ in found)
        places = tuple(place for _, place in found)
        said = [" ".join(sample.reply[start:end].split())[:60] for start, end in places]
        reasons = tuple(f'speaks_for_user: "{text}"' for text in said)
        return TermScore(-min(1.0, weight) if weight else 0.0, reasons, {"weight": weight}, places)

    def _labels(self, reply: str, spans: Sequence[Span]) -> list[tuple[float, tuple[int, int]]]:
        return [(1.0, m.span()) for m in self._label.finditer(_shown(reply, spans))]

    def _findings(self, reply: str, spans: Sequence[Span]) -> list[tuple[float, tuple[int, int]]]:
        patterns = _patterns()
        shown = _shown(reply, spans)
        found = [(0.7, m.span()) for p in patterns.quoted for m in p.finditer(shown)]
        narrated = [*patterns.narrated, *([self._named] if self._named else [])]
        for span in spans:
            text, start = reply[span.start : span.end], span.start
            if span.kind == "action":
                inner = text.lstrip(_MARKS)
                start += len(text) - len(inner)
                found += [(0.5, _moved(m, start)) for p in narrated for m in p.finditer(inner.rstrip(_MARKS))]
            elif span.kind == "speech" and text.lstrip()[:1] not in ('"', "“", "「", "『"):
                found += [(0.4, _moved(m, start)) for p in patterns.plain for m in p.finditer(text)]
        return found


def _shown(reply: str, spans: Sequence[Span]) -> str:
    """The reply with hidden parts blanked and not cut out: what they separate must not become neighbours."""
    return "".join(" " * (s.end - s.start) if s.kind in ("plan", "ooc") else reply[s.start : s.end] for s in spans)


def _moved(match: re.Match[str], by: int) -> tuple[int, int]:
    return match.start() + by, match.end() + by


@cache
def _patterns() -> _Patterns:
    data = yaml.safe_load(ACTS.read_text(encoding="utf-8"))
    english, chinese = (_read(data, language) for language in ("en", "zh"))
    return _Patterns(
        (*_narrated_en(english["acts"]), _narrated_zh(chinese["acts"])),
        (_plain_en(english["plain"]), _plain_zh(chinese["plain"])),
        (_quoted_en(english["speech"]), _quoted_zh(chinese["speech"])),
    )


def _read(data: dict[str, dict[str, str]], language: str) -> dict[str, str]:
    """The word lists of a language, each joined into one alternation."""
    lists = data.get(language, {})
    if any(not isinstance(lists.get(key), str) for key in ("acts", "plain", "speech")):
        raise UserError("expected the word lists acts, plain and speech", file=ACTS, place=language)
    return {key: _any(lists[key]) for key in ("acts", "plain", "speech")}


def _any(words: str) -> str:
    return "|".join(words.split())


def _narrated_en(acts: str) -> tuple[re.Pattern[str], ...]:
    subject = r"(?:^|[.;!,—…\n]\s*|\b(?:and|but|then|so)\s+)"
    body = rf"{subject}your\s+(?:{_any(_BODY)})\s+(?!(?:{_any(_AUXILIARIES)})\b)[a-z]+(?:s|ed|n)?\b"
    state = rf"(?:^|[.;!]\s+)you(?:'re|\s+are|\s+feel)\s+(?:too\s+)?(?:{_any(_STATES)})\b"
    act = rf"{subject}you\s+{_ADVERBS}(?:{acts})\b(?!\s*\?)"
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in (act, body, state))


def _plain_en(acts: str) -> re.Pattern[str]:
    # A question or an exclamation is said to the user; narration ends in a full stop.
    sentence = rf"(?:^|(?<=[.!?…*\"”'’])\s+|\n)you\s+{_ADVERBS}(?:{acts})\b[^?!.\n]*(?:\.|\n|$)"
    return re.compile(rf"{sentence}|\bas you (?:nod|smile|blush|gasp|hesitate)\b", re.IGNORECASE)


def _quoted_en(speech: str) -> re.Pattern[str]:
    adverb = r"(?:\w+ly\s+)?"
    after = rf"[,.!?…—][\"”'’]\s*(?:you\s+{adverb}(?!(?:{_any(_TALK)})\b)[a-z]+|says\s+you)\b"
    before = rf"\byou\s+{adverb}(?:{speech})(?:\s+\w+){{0,3}}\s*[,:]\s*[\"“'‘]"
    return re.compile(f"{after}|{before}", re.IGNORECASE)


def _narrated_zh(acts: str) -> re.Pattern[str]:
    opening = r"(?:^|[，。；！、,;\s*（(]|于是|然后|接着|只见|随后|而)[你您](?:也|便|就|又|还|则|都|才|当即|顿时|于是)?"
    return re.compile(rf"{opening}(?:{acts})")


def _plain_zh(acts: str) -> re.Pattern[str]:
    opening = r"(?:^|[。！\n\s*）)”」]|于是|然后|接着|只见)[你您](?:也|便|就|又|则|顿时)?"
    return re.compile(rf"{opening}(?:{acts})(?![^。！？\n]*[吧吗呢？?！!]|就[行好是])")


def _quoted_zh(speech: str) -> re.Pattern[str]:
    middle = rf"{_RELATIVES}(?![^。！？\n“「\"]{{0,12}}(?:{_QUOTING_BACK}))[^。！？\n“”」「\"他她]{{0,40}}"
    before = rf"[你您]{middle}(?:{speech})[^。！？\n“「”」\"]{{0,4}}[：:]\s*[“「\"]"
    after = rf"[，。！？…][”」\"]\s*[你您]{_RELATIVES}[^，。！？\n我]{{0,6}}(?:{speech})"
    return re.compile(f"{before}|{after}")

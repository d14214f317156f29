"""The same prompts answered by each policy, side by side, with the phrases that were held against a reply."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from rlrp.evaluation.results import Reply, Turn
from rlrp.evaluation.text import shown

# As the blacklist term writes its reasons: blacklist: "as an ai" (ai_identity)
_REASON = re.compile(r'(?:blacklist:\s*)?"(?P<phrase>.+)" \((?P<category>[^()]*)\)\s*', re.DOTALL)


@dataclass(frozen=True)
class TermValue:
    """One term on one reply; ``change`` is against the reference policy's reply to the same prompt.

    ``scored`` is False where there are only reasons, as of a gate; a scored term without a value abstained.
    """

    name: str
    value: float | None
    change: float | None
    reasons: tuple[str, ...]
    scored: bool = True


@dataclass(frozen=True)
class Answer:
    """A policy's reply, with marks, and its terms."""

    policy: str
    raw: str
    reply: Markup
    terms: tuple[TermValue, ...]
    hits: int


@dataclass(frozen=True)
class Side:
    """One prompt and each policy's answer to it, None where a policy has none; ``worse``: a term fell."""

    card: str
    suite: str
    turns: tuple[Turn, ...]
    answers: tuple[Answer | None, ...]
    worse: bool

    @property
    def hits(self) -> int:
        return sum(answer.hits for answer in self.answers if answer is not None)


def side_by_side(
    samples: Mapping[str, Sequence[Reply | Mapping[str, Any]]],
    policies: Sequence[str],
    reference: str,
    *,
    limit: int,
) -> tuple[list[Side], int]:
    """Up to ``limit`` prompts, cards and suites in turn, and how many there are; chosen by place alone, never by score.

    Args:
        samples: replies by policy; those with the same card, suite and prompt belong together, in their order.
        policies: the order of the answers.
        reference: whose terms the changes are against.
    """
    together: dict[tuple[Any, ...], dict[str, Reply]] = {}
    for policy in policies:
        seen: dict[tuple[Any, ...], int] = defaultdict(int)
        for sample in samples.get(policy, ()):
            reply = Reply.model_validate(sample)
            key = (reply.card, reply.suite, reply.prompt)
            together.setdefault((*key, seen[key]), {})[policy] = reply
            seen[key] += 1
    chosen = _in_turn(together)
    # A prompt only one policy answered compares nothing.
    complete = [replies for replies in chosen if len(replies) > 1] or chosen
    return [_side(replies, policies, reference) for replies in complete[:limit]], len(complete)


def mark_phrases(text: str, reasons: Iterable[str]) -> tuple[Markup, int]:
    """``text`` escaped, with every phrase that a blacklist reason quotes in ``<mark>``, and how many were found."""
    categories: dict[str, str] = {}
    for reason in reasons:
        if (match := _REASON.fullmatch(reason.strip())) is not None and match["phrase"].strip():
            categories[" ".join(match["phrase"].split())] = match["category"]
    if not categories:
        return escape(shown(text)), 0
    # Reasons have their white space collapsed, replies do not. Longest first: a phrase may hold another.
    by_length = sorted(categories, key=len, reverse=True)
    pattern = re.compile("|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in by_length))
    parts: list[Markup] = []
    done = found = 0
    for match in pattern.finditer(text):
        category = categories[" ".join(match.group().split())]
        parts.append(escape(shown(text[done : match.start()])))
        parts.append(Markup('<mark title="blacklisted: {}">{}</mark>').format(shown(category), shown(match.group())))
        done, found = match.end(), found + 1
    return Markup("").join([*parts, escape(shown(text[done:]))]), found


def _in_turn(together: Mapping[tuple[Any, ...], dict[str, Reply]]) -> list[dict[str, Reply]]:
    """One prompt of each card and suite, then the second of each, and so on; further replies to a prompt come last."""
    prompts: dict[tuple[str, str, int], int] = defaultdict(int)
    ranked = []
    for (card, suite, _, repeat), replies in together.items():
        ranked.append(((repeat, prompts[card, suite, repeat]), replies))
        prompts[card, suite, repeat] += 1
    return [replies for _, replies in sorted(ranked, key=lambda pair: pair[0])]


def _side(replies: dict[str, Reply], policies: Sequence[str], reference: str) -> Side:
    first = next(iter(replies.values()))
    turns = (Turn(role="user", content=first.prompt),) if isinstance(first.prompt, str) else first.prompt
    base = replies.get(reference)
    answers = tuple(
        _answer(policy, replies[policy], base if policy != reference else None) if policy in replies else None
        for policy in policies
    )
    after = [a for a in answers if a is not None and a.policy == policies[-1]]
    worse = any(term.change is not None and round(term.change, 2) < 0 for answer in after for term in answer.terms)
    return Side(first.card, first.suite, turns, answers, worse)


def _answer(policy: str, reply: Reply, reference: Reply | None) -> Answer:
    terms = []
    for name, value in reply.terms.items():
        before = None if reference is None else reference.terms.get(name)
        change = None if value is None or before is None else value - before
        reasons = tuple(reason.removeprefix(f"{name}: ") for reason in reply.reasons.get(name, ()))
        terms.append(TermValue(name, value, change, reasons))
    # A gate or the composite may give reasons of its own.
    extra = [name for name in reply.reasons if name not in reply.terms and reply.reasons[name]]
    terms += [TermValue(name, None, None, reply.reasons[name], scored=False) for name in extra]
    text, hits = mark_phrases(reply.reply, reply.reasons.get("blacklist", ()))
    return Answer(policy, reply.reply, text, tuple(terms), hits)

"""K, the density of speaker anchors: words that only somebody who is here, now, talking to somebody can say."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from reward.dissonance.register import register
from reward.text import Language, clauses, lower_case

CAP = 2.0
"""Anchors beyond this many a clause earn nothing, so that particles and exclamation marks cannot be piled up."""


def anchors(text: str, language: Language) -> list[tuple[int, int, str]]:
    """The anchors of ``text`` as (start, end, kind), in order; a kind counts once at a place.

    What stands inside a phrase of the assistant's (「有什么可以帮您」) is none.
    """
    tables, text = register(language), lower_case(text)
    taken = [m.span() for m in tables.groups["opener"].finditer(text)]
    found = []
    for kind, pattern in tables.anchors.items():
        for match in pattern.finditer(text):
            if not any(start <= match.start() < end for start, end in taken):
                found.append((match.start(), match.end(), kind))
    return sorted(found)


def anchor_density(text: str, language: Language) -> float:
    """K: anchors a clause, between 0 and :data:`CAP`; at most two count in any one clause, 0 for empty text."""
    parts = clauses(text)
    return density(text, parts, [start for start, _, _ in anchors(text, language)]) if parts else 0.0


def density(text: str, parts: Sequence[tuple[int, int]], starts: Sequence[int]) -> float:
    """K of a text whose clauses (at least one) and anchors' starts, in order, are known."""
    # A closing mark belongs to its clause; what lies between clauses counts with the one before.
    edges = [start for start, _ in parts] + [len(text) + 1]
    counts = [bisect_left(starts, right) - bisect_left(starts, left) for left, right in pairwise(edges)]
    counts[0] += bisect_left(starts, edges[0])
    return sum(min(CAP, count) for count in counts) / len(parts)

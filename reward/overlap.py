"""What two texts have in common: shares of n-grams, and the runs of units that one takes over from the other."""

from __future__ import annotations

from collections.abc import Sequence

from reward.text import unit_list

Gram = tuple[str, ...]


def grams(tokens: Sequence[str], order: int) -> list[Gram]:
    """The n-grams of ``tokens`` in order; none where there are fewer than ``order`` tokens."""
    return [tuple(tokens[at : at + order]) for at in range(len(tokens) - order + 1)]


def gram_set(texts: Sequence[str], order: int) -> set[Gram]:
    """The n-grams of units of any of the texts."""
    return {gram for text in texts for gram in grams(unit_list(text), order)}


def share(own: Sequence[Gram], known: set[Gram]) -> float:
    """The part of ``own`` that is known, in [0, 1]; 0 of nothing."""
    return sum(gram in known for gram in own) / len(own) if own else 0.0


def shared_runs(tokens: Sequence[str], known: set[Gram], order: int) -> list[tuple[int, int]]:
    """The stretches of ``tokens`` that known n-grams cover, as (start, end), longest possible, in order.

    A stretch stands in the other text in one piece, or in pieces of ``order`` tokens and more that overlap.
    """
    runs: list[tuple[int, int]] = []
    for at, gram in enumerate(grams(tokens, order)):
        if gram not in known:
            continue
        if runs and at < runs[-1][1]:
            runs[-1] = (runs[-1][0], at + order)
        else:
            runs.append((at, at + order))
    return runs

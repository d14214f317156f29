"""A batch among several workers: each works out everybody's share from the whole batch, so that nobody need ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rlrp.lm.scoring import TokenGroup, micro_batches


@dataclass(frozen=True)
class Piece:
    """Some completions of a group, by their places."""

    group: int
    completions: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the model at once, and of every completion its (group, completion) place in the batch."""

    groups: list[TokenGroup]
    places: list[tuple[int, int]]

    @property
    def scored_tokens(self) -> int:
        return sum(group.scored_tokens for group in self.groups)


def shares(
    groups: Sequence[TokenGroup], workers: int, token_budget: int, *, share_prefix: bool = True
) -> list[list[MicroBatch]]:
    """Everybody's micro-batches: about equal tokens, a function of the batch alone.

    Micro-batches without a token to score are left out. One worker gets the batch as it is.
    """
    pieces = [list(pieces) for pieces in _dealt(groups, workers, share_prefix)]
    return [_micro_batches(groups, own, token_budget, share_prefix) for own in pieces]


def _dealt(groups: Sequence[TokenGroup], workers: int, share_prefix: bool) -> list[list[Piece]]:
    """Largest first to whoever has least; groups above the mean share are cut between completions beforehand."""
    if workers == 1:
        return [[_piece(g, group, range(len(group.completions)), share_prefix) for g, group in enumerate(groups)]]
    most = sum(group.packed_tokens(share_prefix) for group in groups) / workers
    pieces = [piece for g, group in enumerate(groups) for piece in _cut(g, group, most, share_prefix)]
    hands: list[list[Piece]] = [[] for _ in range(workers)]
    totals = [0] * workers
    for piece in sorted(pieces, key=lambda piece: -piece.tokens):
        least = min(range(workers), key=lambda w: totals[w])
        hands[least].append(piece)
        totals[least] += piece.tokens
    return [sorted(hand, key=lambda piece: (piece.group, piece.completions)) for hand in hands]


def _cut(g: int, group: TokenGroup, most: float, share_prefix: bool) -> list[Piece]:
    """The group in as few parts as keep each, about, below ``most`` tokens; every part has its prompt again."""
    spoken = [c for c, completion in enumerate(group.completions) if completion]
    parts = min(len(spoken), -(-group.packed_tokens(share_prefix) // max(1, int(most))))
    edges = [len(spoken) * part // parts for part in range(parts + 1)] if parts else []
    return [_piece(g, group, spoken[a:b], share_prefix) for a, b in pairwise(edges)]


def _piece(g: int, group: TokenGroup, completions: Sequence[int], share_prefix: bool) -> Piece:
    part = TokenGroup(group.prompt, tuple(group.completions[c] for c in completions))
    return Piece(g, tuple(completions), part.packed_tokens(share_prefix))


def _micro_batches(
    groups: Sequence[TokenGroup], pieces: Sequence[Piece], token_budget: int, share_prefix: bool
) -> list[MicroBatch]:
    own = [
        TokenGroup(groups[p.group].prompt, tuple(groups[p.group].completions[c] for c in p.completions)) for p in pieces
    ]
    batches = [
        MicroBatch(pack, [(pieces[i].group, pieces[i].completions[c]) for i, c in places])
        for pack, places in micro_batches(own, token_budget, share_prefix=share_prefix)
    ]
    return [batch for batch in batches if batch.scored_tokens]

"""Find many literals in one pass (Aho and Corasick, 1975), for lists too long for one regex each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Automaton:
    """All literals of a list as one automaton; :meth:`find` costs one dictionary look-up a character.

    The failure links are folded into the transitions: a state lists every character that does not lead back to what
    the root would do with it, so the scan never walks a chain of links.
    """

    def __init__(self, literals: Iterable[str]):
        """``literals`` are numbered in order; an empty one is never found."""
        self._next: list[dict[str, int]] = [{}]
        self._found: list[tuple[int, ...]] = [()]
        self.lengths: list[int] = []
        for number, literal in enumerate(literals):
            self.lengths.append(len(literal))
            if literal:
                self._insert(literal, number)
        self._link()

    def _insert(self, literal: str, number: int) -> None:
        state = 0
        for char in literal:
            following = self._next[state].get(char)
            if following is None:
                following = len(self._next)
                self._next[state][char] = following
                self._next.append({})
                self._found.append(())
            state = following
        self._found[state] += (number,)

    def _link(self) -> None:
        fail = [0] * len(self._next)
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            # The failure state is shallower, so its own transitions are already complete.
            back = fail[state]
            self._found[state] += self._found[back]
            for char, following in self._next[state].items():
                fail[following] = self._next[back].get(char, self._next[0].get(char, 0))
                queue.append(following)
            if back:
                self._next[state] = {**self._next[back], **self._next[state]}

    def find(self, text: str) -> list[tuple[int, int, int]]:
        """Every occurrence as (start, end, number of the literal), overlapping ones included, by end."""
        hits = []
        following, found, lengths = self._next, self._found, self.lengths
        root = following[0]
        state = 0
        for at, char in enumerate(text):
            state = following[state].get(char, -1)
            if state < 0:
                state = root.get(char, 0)
            if found[state]:
                hits += [(at + 1 - lengths[number], at + 1, number) for number in found[state]]
        return hits

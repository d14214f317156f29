"""Reward terms of a user's, with faults. The prompts they fail over are told by what the user says in them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rlrp.dialogue.types import Sample
from rlrp.protocols import TermScore


class Letters:
    """No fault: a number that differs between any two replies, whatever model gave them: all are learnt from."""

    name = "letters"

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        return [TermScore(sum(ord(letter) % 32 for letter in s.reply) / (1 + 32 * len(s.reply))) for s in samples]


class _Faulty:
    """Scores replies by their length, except where ``texts`` are said."""

    name = "faulty"

    def __init__(self, texts: Sequence[str], once: str | None = None):
        self.texts = frozenset(texts)
        self.once = Path(once) if once else None

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        return [self.fail() if self._strikes(s) else TermScore(len(s.reply) / 100) for s in samples]

    def fail(self) -> TermScore:
        raise NotImplementedError

    def _strikes(self, sample: Sample) -> bool:
        if sample.messages[-1].content not in self.texts:
            return False
        if self.once is None:
            return True
        first = not self.once.exists()
        self.once.touch()
        return first


class Dies(_Faulty):
    """Takes its actor's process with it."""

    def fail(self) -> TermScore:
        os._exit(1)


class Hangs(_Faulty):
    """Never answers."""

    def fail(self) -> TermScore:
        time.sleep(1e6)
        return TermScore(None)


class Explodes(_Faulty):
    """Finite, and beyond what the learner's numbers hold: its loss will not be finite."""

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        factor = 1e300 if any(self._strikes(sample) for sample in samples) else 1.0
        return [TermScore(factor * (i + len(s.reply) / 100)) for i, s in enumerate(samples)]

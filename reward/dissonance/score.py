"""The dissonance term: a one-sided penalty for speech that could as well be about the character as by it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from reward.coverage import not_covered
from reward.dissonance.features import NAMES, Features, features, speech_features
from reward.dissonance.lite import WEIGHTS, Weights, load_weights
from reward.dissonance.prompts import request_of
from reward.dissonance.scorer import Registers, Scorer
from reward.per_card import PerCard
from reward.spans import is_novel_style, join, split_spans
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

_K, _S = NAMES.index("K"), NAMES.index("S_rule")
_HALF_EVIDENCE = 8.0
"""Units of speech at which the evidence is one half."""
_OWN_STYLE_LIMIT = 0.8
_OWN_STYLE_UNITS = 12


class DissonanceTerm:
    """``-evidence * max(0, d - tau)``: once speech is as much in role as people write it, there is nothing to earn.

    d is the lite score (:mod:`reward.dissonance.lite`) with R and S of a language model where one is given.
    ``evidence`` is ``n / (n + 8)`` for n units of speech, halved when the reply does not mention its speaker. Where the
    card's own greeting and examples score above tau (a butler, a scholar), their median is the threshold. Requests for
    facts about the character and general tasks soften the penalty. A reply without speech gets None: the composite
    must impute the group's mean, or dropping speech would pay. So does one that is neither Chinese nor English.
    """

    name = "dissonance"

    def __init__(
        self,
        *,
        scorer: Scorer | None = None,
        weights: str | Path | None = None,
        soften: float = 0.3,
    ):
        """Load the weights.

        Args:
            scorer: a language model's reading of the registers, R and S; None goes by the lite score alone.
            weights: a file by ``save_weights``; None takes the shipped one.
            soften: factor on the penalty for self-introductions and general tasks, in [0, 1].
        """
        if not 0 <= soften <= 1:
            raise UserError(f"got {soften}, expected a number in [0, 1]", place="soften")
        self._weights = load_weights(weights or WEIGHTS)
        self._scorer = scorer
        self._soften = soften
        self._card_style = PerCard(self._median_style)

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; parts are d, evidence, K, S_rule, tau and, with a language model, R and S."""
        read: Sequence[Registers | None] = [None] * len(samples)
        if self._scorer is not None and samples:
            read = self._scorer.read(samples)
            if len(read) != len(samples):
                raise ValueError(f"scorer: read {len(read)} of {len(samples)} samples")
        return [self._score(sample, own) for sample, own in zip(samples, read, strict=True)]

    def _score(self, sample: Sample, read: Registers | None) -> TermScore:
        if (unknown := not_covered(self.name, sample)) is not None:
            return unknown
        found = features(sample)
        if found is None:
            return TermScore(None, ("dissonance: no speech",))
        weights = self._weights.get(found.language)
        if weights is None:
            return TermScore(None, (f"dissonance: no weights for {found.language}",))
        d = weights.dissonance(found.values, read)
        tau = max(weights.tau, self._card_style(sample.card))
        evidence = found.length / (found.length + _HALF_EVIDENCE) * (1.0 if found.mentions else 0.5)
        factor = 1.0 if request_of(sample) == "chat" else self._soften
        value = -evidence * factor * max(0.0, d - tau)
        parts = {"d": d, "evidence": evidence, "K": found.values[_K], "S_rule": found.values[_S], "tau": tau}
        heard = {"R": read.ratio, "S": read.tolerance} if read else {}
        parts |= {name: ratio for name, ratio in heard.items() if ratio is not None}
        if not value < 0:
            return TermScore(0.0, (), parts)
        return TermScore(value, _reasons(found, d), parts, tuple(_places(sample.reply, found.offending)))

    def _median_style(self, card: CharacterCard) -> float:
        """The median d of what the card lets the character say, at most 0.8; 0 without enough of it."""
        novel = is_novel_style(card)
        lines = re.findall(r"\{\{char\}\}\s*[:：]\s*(.*)", card.examples)
        scores = []
        for line in (card.greeting, *card.alternate_greetings, *lines):
            found = speech_features(join(line, split_spans(line, novel=novel), "speech"), card)
            if found is not None and found.length >= _OWN_STYLE_UNITS and found.language in self._weights:
                scores.append(self._weights[found.language].dissonance(found.values))
        return min(_OWN_STYLE_LIMIT, median(scores)) if scores else 0.0


def _places(reply: str, clauses: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where the clauses stand in the reply; one that is not there as it is (it crossed a gesture) is left out."""
    done = 0
    for clause in clauses:
        at = reply.find(clause, done)
        if at >= 0:
            done = at + len(clause)
            yield at, done


def _reasons(found: Features, d: float) -> tuple[str, ...]:
    if not found.offending:
        return (f"dissonance: d {d:.2f}; few questions, calls or feelings ({found.values[_K]:.1f} a clause)",)
    return tuple(
        f'dissonance: d {d:.2f}; "{clause}" reads like a text about the character' for clause in found.offending
    )


__all__ = ["DissonanceTerm", "Weights"]

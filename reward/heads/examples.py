"""What the trained heads learn from: examples balanced by length and drawn by weight, with a label for each fault.

Shapes: N examples, K = 1 + faults: being in role, then each fault.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reward.features import visible_text
from reward.heads.faults import FAULT_OF_KIND, FAULTS
from reward.negatives import IN_ROLE, Example
from reward.text import units

Floats = NDArray[np.float32]
_EDGES = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Quantiles of the positives' lengths between which lengths count as alike."""
_MOST = 5.0
"""How many times its weight a rare length may count: a few replies must not stand for a kind."""
_LEAST = 0.01
_FAULT_CHARACTERS = 4
_OTHER_FAULTS = 0.25
"""The weight of replies with another fault, as a share of that of the replies in role."""


def length_matched(examples: Sequence[Example]) -> list[Example]:
    """The examples with the negatives weighted so that the lengths of each kind are spread as those in role are.

    In every language; a kind keeps its weight. Replies of a length at which nobody in role speaks count least.
    """
    found: dict[int, Example] = {}
    for places in _places(examples, lambda example: example.sample.card.language).values():
        in_role = [_length(examples[at]) for at in places if examples[at].kind == IN_ROLE]
        if not in_role:
            continue
        edges = np.quantile(in_role, _EDGES)
        wanted = np.maximum(_shares(in_role, [1.0] * len(in_role), edges), _LEAST)
        for kind, own in _places([examples[at] for at in places], lambda example: example.kind).items():
            members = [places[at] for at in own]
            if kind == IN_ROLE:
                continue
            lengths, weights = [_length(examples[at]) for at in members], [examples[at].weight for at in members]
            there = _shares(lengths, weights, edges)
            factors = np.minimum(wanted / np.maximum(there, 1e-9), _MOST)[np.searchsorted(edges, lengths)]
            matched = np.array(weights) * factors
            matched *= sum(weights) / matched.sum()
            found |= {at: replace(examples[at], weight=float(w)) for at, w in zip(members, matched, strict=True)}
    return [found.get(at, example) for at, example in enumerate(examples)]


def _length(example: Example) -> int:
    return units(visible_text(example.sample.reply))


def _shares(lengths: Sequence[int], weights: Sequence[float], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the weight in each bin."""
    mass = np.bincount(np.searchsorted(edges, lengths), weights=weights, minlength=len(edges) + 1)
    return np.asarray(mass / mass.sum())


def _places(examples: Sequence[Example], key: Callable[[Example], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for at, example in enumerate(examples):
        groups[key(example)].append(at)
    return dict(groups)


def known_faults(examples: Sequence[Example], *, characters: int = _FAULT_CHARACTERS) -> tuple[str, ...]:
    """The faults of which at least so many characters have examples, in their order."""
    slugs: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        slugs[FAULT_OF_KIND.get(example.kind, "")].add(example.slug)
    return tuple(name for name in FAULTS if len(slugs[name]) >= characters)


def fault_weights(examples: Sequence[Example], fault: str) -> tuple[NDArray[np.bool_], Floats]:
    """Which examples have the fault (N,), and the weight of each in learning it (N,).

    The fault stands against being in role. Other faults stand with the replies in role, at a fraction of their weight,
    so that a head knows its own fault from theirs. What has no fault of its own (repeated, shuffled) weighs nothing.
    """
    faults = np.array([FAULT_OF_KIND.get(example.kind, "") for example in examples])
    in_role = np.array([example.label == 1 for example in examples])
    own, weights = faults == fault, np.array([example.weight for example in examples], np.float32)
    others = ~in_role & ~own & (faults != "")
    share = _OTHER_FAULTS * weights[in_role].sum() / max(weights[others].sum(), 1e-9)
    weights = np.where(others, weights * share, weights)
    return own, np.where(in_role | own | others, weights, 0.0).astype(np.float32)


@dataclass(frozen=True)
class Targets:
    """What is learnt of each example: labels and weights, both (N, K); a weight of 0 leaves a label out."""

    labels: Floats
    weights: Floats

    @classmethod
    def of(cls, examples: Sequence[Example], faults: Sequence[str]) -> Targets:
        """Being in role against everything else, and each fault as in :func:`fault_weights`; in every column the
        positives and the negatives weigh the same."""
        labels = [np.array([example.label == 1 for example in examples])]
        weights = [np.array([example.weight for example in examples], np.float32)]
        for fault in faults:
            own, weight = fault_weights(examples, fault)
            labels.append(own)
            weights.append(weight)
        for own, weight in zip(labels, weights, strict=True):
            weight[own] *= 0.5 / max(weight[own].sum(), 1e-9)
            weight[~own] *= 0.5 / max(weight[~own].sum(), 1e-9)
        return cls(np.stack(labels, axis=1).astype(np.float32), np.stack(weights, axis=1).astype(np.float32))


def apart(examples: Sequence[Example], *, share: float = 0.2, seed: int = 0) -> NDArray[np.bool_]:
    """(N,): the examples of the characters left out for calibration, at least two in every language."""
    out: set[str] = set()
    for language, places in sorted(_places(examples, lambda example: example.sample.card.language).items()):
        slugs = sorted({examples[at].slug for at in places if examples[at].label})
        out.update(random.Random(f"calibration {seed} {language}").sample(slugs, max(2, round(share * len(slugs)))))
    return np.array([example.slug in out for example in examples])


def drawn(examples: Sequence[Example], *, negatives: float, seed: int, epoch: int) -> list[int]:
    """The places to learn from in an epoch: every reply in role, and ``negatives`` times as many others, drawn by
    weight without repetition. Replies to the same messages follow one another; their order is random otherwise."""
    rng = np.random.default_rng([seed, epoch])
    positive = [at for at, example in enumerate(examples) if example.label]
    rest = [at for at, example in enumerate(examples) if not example.label]
    weights = np.array([examples[at].weight for at in rest])
    count = min(int(np.count_nonzero(weights)), round(negatives * len(positive)))
    chosen: Sequence[int] = rng.choice(rest, count, replace=False, p=weights / weights.sum()).tolist() if count else []
    together: dict[object, list[int]] = defaultdict(list)
    for at in rng.permutation([*positive, *chosen]):
        together[examples[at].slug, examples[at].sample.messages].append(int(at))
    return [at for places in together.values() for at in places]

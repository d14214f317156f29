"""The dissonance score on what it is meant to tell apart, on what it must not punish, and under other names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward.dissonance.features import NAMES, features
from reward.dissonance.score import DissonanceTerm
from reward.features import visible_text
from reward.measures import figure, pair_accuracy
from reward.text import Language, units
from reward.validation.public_data import HUMAN_LINES
from rlrp.cards import CharacterCard, parse_card
from rlrp.dialogue import Message, Sample, resolve
from rlrp.files import read_json, read_jsonl
from rlrp.protocols import TermScore

LANGUAGES: tuple[Language, ...] = ("zh", "en")
FLAGGED = -0.1
"""A penalty from which on a reply counts as flagged: a tenth of what being wholly in character is worth."""
_HUMAN_LINES = 4000
_HUMAN_SOURCES = {"zh": ("charactereval",), "en": ("coser",)}
"""Lines that people wrote for characters, as scripts and novels; chatHaruhi's English side is half narration."""
_DIGITS = 4
_RULES = ("K", "biography", "slogan", "opener", "dates", "enumeration", "S_rule", "ngrams")


@dataclass(frozen=True)
class MatchedPair:
    """The same said in role and as a biography with "I" pasted in, by hand."""

    name: str
    in_role: Sample
    faulty: Sample


def matched_pairs(language: Language) -> list[MatchedPair]:
    """The shipped pairs of a language, which nothing was fitted on."""
    found = []
    for _, row in read_jsonl(resolve(f"builtin:evaluation/dissonance_pairs_{language}.jsonl")):
        card, said = CharacterCard(name=row["name"], description=row["card"]), (Message("user", row["user"]),)
        found.append(MatchedPair(row["name"], Sample(card, said, row["in_role"]), Sample(card, said, row["faulty"])))
    return found


def formal_replies() -> list[tuple[str, Language, Sample]]:
    """(kind, language, sample): replies in role of illeists, butlers and robots, each card with its own examples."""
    found: list[tuple[str, Language, Sample]] = []
    for language in LANGUAGES:
        for _, row in read_jsonl(resolve(f"builtin:evaluation/dissonance_formal_{language}.jsonl")):
            card = parse_card(row["card"])
            for reply in row["replies"]:
                sample = Sample(card, (Message("user", reply["user"]),), reply["reply"])
                found.append((row["kind"], language, sample))
    return found


def measure_dissonance(term: DissonanceTerm, data: Path | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Every check of the score.

    Args:
        data: a folder of public data sets, for lines that people wrote; None does without.

    Returns:
        ``pairs`` by language (accuracy of d, of the term, of each feature alone and of length),
        ``human_lines`` (share with any penalty, flagged share, percentile), ``zhang_fei``, ``formal`` (flagged share
        by kind), ``names`` (mean absolute change of the term's value).
    """
    found: dict[str, Any] = {"pairs": {}, "human_lines": {}, "formal": {}, "names": {}}
    for language in LANGUAGES:
        pairs = matched_pairs(language)
        found["pairs"][language] = _pairs(term, pairs, seed)
        found["human_lines"][language] = _human(term, language, pairs, data, seed)
        found["names"][language] = _names(term, language, pairs)
    found["zhang_fei"] = _zhang_fei(term, found["human_lines"]["zh"]["d_percentile_95"])
    replies = formal_replies()
    for kind in sorted({kind for kind, _, _ in replies}):
        for language in LANGUAGES:
            own = [sample for k, la, sample in replies if (k, la) == (kind, language)]
            found["formal"][f"{kind} {language}"] = _flagged(term, own, seed)
    found["formal"]["all"] = _flagged(term, [sample for _, _, sample in replies], seed)
    return found


def _pairs(term: DissonanceTerm, pairs: Sequence[MatchedPair], seed: int) -> dict[str, Any]:
    good, bad = term.score([p.in_role for p in pairs]), term.score([p.faulty for p in pairs])
    groups = [pair.name for pair in pairs]
    columns: dict[str, tuple[list[float], list[float]]] = {
        "d": (_parts(good, "d"), _parts(bad, "d")),
        "term's value": ([-_value(s) for s in good], [-_value(s) for s in bad]),
    }
    for name, sign in (("R", -1.0), ("S", 1.0)):  # only a term with a language model has these
        if any(name in score.parts for score in good):
            right, wrong = ([sign * part for part in _parts(side, name)] for side in (good, bad))
            columns[name] = right, wrong
    rows = [(features(p.in_role), features(p.faulty)) for p in pairs]
    for name in _RULES:
        at, sign = NAMES.index(name), -1.0 if name == "K" else 1.0
        sides = [[sign * own.values[at] if own else 0.0 for own in side] for side in zip(*rows, strict=True)]
        columns[name] = sides[0], sides[1]
    right, wrong = ([float(units(visible_text(sample.reply))) for sample in side] for side in _sides(pairs))
    columns["length"] = right, wrong
    figures = {}
    for name, (low, high) in columns.items():
        figures[name] = figure(partial(_told_apart, np.array(low), np.array(high)), groups, seed=seed)
    return figures


def _told_apart(in_role: NDArray[np.float64], faulty: NDArray[np.float64], rows: NDArray[np.intp]) -> float:
    return pair_accuracy(faulty[rows], in_role[rows])


def _sides(pairs: Sequence[MatchedPair]) -> tuple[list[Sample], list[Sample]]:
    return [p.in_role for p in pairs], [p.faulty for p in pairs]


def _human(
    term: DissonanceTerm, language: Language, pairs: Sequence[MatchedPair], data: Path | None, seed: int
) -> dict[str, Any]:
    """Penalties on lines that people wrote: scripts and novels where they are there, else the pairs' right halves."""
    samples, source = [pair.in_role for pair in pairs], "matched pairs, in role"
    for name in _HUMAN_SOURCES[language]:
        _, needed, lines = HUMAN_LINES[name]
        if data is not None and (data / needed).exists():
            card = CharacterCard(name="某人" if language == "zh" else "Somebody")
            texts = list(lines(data))
            chosen = np.random.default_rng(seed).permutation(len(texts))[:_HUMAN_LINES]
            samples, source = [Sample(card, (), texts[at]) for at in sorted(chosen)], name
    scores = [score for score in term.score(samples) if score.value is not None]
    values, d = np.array([_value(score) for score in scores]), np.array(_parts(scores, "d"))
    return {
        "source": source,
        "n": len(scores),
        "abstained": round(1 - len(scores) / len(samples), _DIGITS),
        "penalised": round(float((values < 0).mean()), _DIGITS),
        "flagged": round(float((values <= FLAGGED).mean()), _DIGITS),
        "d_percentile_95": round(float(np.percentile(d, 95)), _DIGITS),
    }


def _zhang_fei(term: DissonanceTerm, limit: float) -> dict[str, Any]:
    row = read_json(resolve("builtin:evaluation/dissonance_zhang_fei.json"))
    card, before = parse_card(row["card"]), (Message("user", row["user"]),)
    scores = term.score([Sample(card, before, text) for text in (row["dissonant"], *row["in_role"])])
    d = [round(own, _DIGITS) for own in _parts(scores, "d")]
    return {"dissonant_d": d[0], "in_role_d": d[1:], "limit": limit, "passed": d[0] > limit >= max(d[1:])}


def _flagged(term: DissonanceTerm, samples: Sequence[Sample], seed: int) -> dict[str, Any]:
    """The share of replies with a penalty of a tenth and more, with its interval over characters."""
    scores = term.score(samples)
    hit = np.array([s.value is not None and s.value <= FLAGGED for s in scores])
    found = figure(lambda rows: float(hit[rows].mean()), [s.card.name for s in samples], seed=seed)
    mean = float(np.mean([_value(score) for score in scores]))
    return {**found, "mean_penalty": round(mean, _DIGITS)}


def _names(term: DissonanceTerm, language: Language, pairs: Sequence[MatchedPair]) -> dict[str, Any]:
    """How much the value moves when card, question and reply call the character something else."""
    names = read_json(resolve("builtin:evaluation/names.json"))[language]
    samples = [sample for pair in pairs for sample in (pair.in_role, pair.faulty)]
    before = np.array([_value(score) for score in term.score(samples)])
    changes = []
    for name in names:
        after = term.score([_renamed(sample, name) for sample in samples])
        changes.append(np.abs(np.array([_value(score) for score in after]) - before))
    table = np.stack(changes)
    return {
        "names": len(names),
        "replies": len(samples),
        "mean_change": round(float(table.mean()), _DIGITS),
        "worst_name": round(float(table.mean(axis=1).max()), _DIGITS),
    }


def _renamed(sample: Sample, name: str) -> Sample:
    old = sample.card.name

    def swap(text: str) -> str:
        return text.replace(old, name)

    card = replace(sample.card, name=name, description=swap(sample.card.description))
    return Sample(card, tuple(replace(m, content=swap(m.content)) for m in sample.messages), swap(sample.reply))


def _parts(scores: Sequence[TermScore], name: str) -> list[float]:
    return [score.parts.get(name, 0.0) for score in scores]


def _value(score: TermScore) -> float:
    return 0.0 if score.value is None else score.value

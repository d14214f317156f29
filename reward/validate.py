"""How far each term can be trusted: measured on characters that nothing was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reward.config import load_reward
from reward.features import visible_text
from reward.measures import auc, bootstrap_interval, brier, calibration_error, pair_accuracy
from reward.negatives import IN_ROLE, BaseReply, Character, Example, build_examples, characters_of
from reward.text import units
from rlrp.dialogue import Message, Pool, Sample
from rlrp.errors import UserError
from rlrp.protocols import Judgement, TermScore

Floats = NDArray[np.float64]
_DIGITS = 4
PROBABILITIES = frozenset({"in_character", "judge"})
"""Terms whose values are probabilities, so that calibration can be measured."""

T = TypeVar("T")
Score = Callable[[Sequence[Sample]], Sequence[float | None]]


@dataclass(frozen=True)
class Exam:
    """What terms are measured on: labelled examples, and pairs of a right and a faulty reply by kind of fault."""

    examples: tuple[Example, ...]
    pairs: tuple[tuple[str, Sample, Sample], ...]

    @classmethod
    def of(cls, characters: Sequence[Character], base_replies: Iterable[BaseReply] = (), *, seed: int = 0) -> Exam:
        """Examples built as for training, from these characters alone; pairs are their contrasts."""
        # Another stream than training's, so that the same seed does not repeat its choices.
        examples = build_examples(characters, base_replies, seed=seed + 1)
        pairs = []
        for character in characters:
            for contrast in character.contrasts:
                before = (Message("user", contrast.user),)
                better, worse = (Sample(character.card, before, text) for text in (contrast.in_role, contrast.faulty))
                pairs.append((contrast.kind, better, worse))
        return cls(tuple(examples), tuple(pairs))


def measure(score: Score, exam: Exam, *, probability: bool, seed: int = 0) -> dict[str, Any]:
    """One term's figures; abstentions are counted and left out of the rest.

    Returns:
        ``n``, ``characters``, ``abstained``, ``auc`` and its ``auc_ci95`` (bootstrap over characters), ``auc_by_kind``,
        ``pairs`` (accuracy overall and by kind, and n), ``mean_in_role``; for a probability ``brier`` and ``ece``.
        A figure without data is None.
    """
    scores = score([example.sample for example in exam.examples])
    given = [(example, value) for example, value in zip(exam.examples, scores, strict=True) if value is not None]
    examples = [example for example, _ in given]
    values = np.array([value for _, value in given], dtype=np.float64)
    labels = np.array([example.label for example in examples])
    weights = np.array([example.weight for example in examples])
    kinds = np.array([example.kind for example in examples], dtype=object)
    interval = bootstrap_interval(
        lambda rows: auc(labels[rows], values[rows], weights[rows]), [e.slug for e in examples], seed=seed
    )
    figures: dict[str, Any] = {
        "n": len(exam.examples),
        "characters": len({example.slug for example in exam.examples}),
        "abstained": 1 - len(given) / max(len(exam.examples), 1),
        "auc": auc(labels, values, weights),
        "auc_ci95": list(interval),
        "auc_by_kind": {
            str(kind): _auc_against(labels, values, kinds, kind) for kind in sorted(set(kinds) - {IN_ROLE})
        },
        "mean_in_role": float(values[labels == 1].mean()) if (labels == 1).any() else float("nan"),
        "pairs": _pairs(score, exam),
    }
    if probability and len(values):
        figures |= {"brier": brier(labels, values, weights), "ece": calibration_error(labels, values, weights)}
    return dict(_rounded(figures))


def length_baseline(exam: Exam) -> float:
    """AUC of the reply's length alone, in the better of the two directions."""
    lengths = np.array([units(visible_text(example.sample.reply)) for example in exam.examples], dtype=np.float64)
    found = auc([e.label for e in exam.examples], lengths, [e.weight for e in exam.examples])
    return round(max(found, 1 - found), _DIGITS)


def values_of(term_score: Callable[[Sequence[Sample]], Sequence[TermScore]]) -> Score:
    """A term's ``score`` as plain values."""
    return lambda samples: [score.value for score in term_score(samples)]


def remembering(score: Callable[[Sequence[Sample]], Sequence[T]]) -> Callable[[Sequence[Sample]], list[T]]:
    """``score`` that reads each sample once: a large head takes minutes for an exam. Samples are told by identity."""
    known: dict[int, tuple[Sample, T]] = {}

    def scored(samples: Sequence[Sample]) -> list[T]:
        missing = [sample for sample in samples if id(sample) not in known]
        for sample, found in zip(missing, score(missing) if missing else (), strict=True):
            known[id(sample)] = (sample, found)
        return [known[id(sample)][1] for sample in samples]

    return scored


Judge = Callable[[Sequence[Sample]], Sequence[Judgement]]


def validate_reward(
    reward_yaml: str | Path, pool: Pool, base_replies: Iterable[BaseReply] = (), *, seed: int = 0
) -> dict[str, Any]:
    """Measure every term of a reward, and the total, on the pool's held-out characters; print a table.

    Returns:
        What :func:`measure_terms` does.

    Raises:
        UserError: the pool holds no character out, or the reward cannot be loaded.
    """
    composite = load_reward(reward_yaml)
    exam, judge = held_out_exam(pool, base_replies, seed=seed), remembering(composite.score_one_by_one)
    figures = measure_terms(judge, exam, seed=seed)
    print_figures({**figures["terms"], "total": figures["total"]}, figures["length_auc"])
    return figures


def held_out_exam(pool: Pool, base_replies: Iterable[BaseReply] = (), *, seed: int = 0) -> Exam:
    """The exam of the pool's held-out characters.

    Raises:
        UserError: there are none with dialogues or contrasts.
    """
    characters = characters_of(pool, held_out=True)
    if not any(character.dialogues or character.contrasts for character in characters):
        raise UserError("no held-out characters with dialogues or contrasts to measure on", place="held_out")
    return Exam.of(characters, list(base_replies), seed=seed)


def measure_terms(judge: Judge, exam: Exam, *, seed: int = 0) -> dict[str, Any]:
    """Figures of every term and of the total; ``judge`` is asked about each sample several times, so let it remember.

    Returns:
        ``{"terms": {name: figures}, "total": figures, "length_auc": ...}``, figures as of :func:`measure`.
    """

    def of_term(name: str) -> Score:
        return lambda samples: [judgement.terms[name] for judgement in judge(samples)]

    names = judge([example.sample for example in exam.examples])[0].terms if exam.examples else ()
    terms = {name: measure(of_term(name), exam, probability=name in PROBABILITIES, seed=seed) for name in names}
    total = measure(lambda samples: [judgement.total for judgement in judge(samples)], exam, probability=False)
    return {"terms": terms, "total": total, "length_auc": length_baseline(exam)}


@dataclass(frozen=True)
class Curves:
    """What is plotted of held-out characters, by language: for ROC (label, score, weight) of every score; for
    calibration the figures of :func:`reward.people.figures.calibration` of every probability."""

    roc: dict[str, dict[str, tuple[Any, Any]]]
    calibration: dict[str, dict[str, Any]]


def curves(judge: Judge, exam: Exam) -> Curves:
    """ROC and calibration of the trained terms, the total and length."""
    from reward.people.figures import calibration

    samples = [example.sample for example in exam.examples]
    judged = judge(samples)
    scores: dict[str, list[float | None]] = {"total": [judgement.total for judgement in judged]}
    for name in judged[0].terms if judged else ():
        if name in PROBABILITIES:
            scores[name] = [judgement.terms[name] for judgement in judged]
    scores["length alone"] = [float(units(visible_text(sample.reply))) for sample in samples]
    languages = np.array([sample.card.language for sample in samples])
    labels = np.array([example.label for example in exam.examples])
    weights = np.array([example.weight for example in exam.examples])
    found = Curves({}, {})
    for language in sorted(set(languages.tolist())):
        own = languages == language
        columns = {
            name: np.array([np.nan if v is None else v for v in values], float)[own] for name, values in scores.items()
        }
        found.roc[f"{language}, held-out characters"] = {
            name: (labels[own], column) for name, column in columns.items()
        }
        for name in PROBABILITIES & set(columns):
            known = np.isfinite(columns[name])
            if known.any():
                found.calibration[f"{language} {name}"] = calibration(
                    columns[name][known], labels[own][known], weights=weights[own][known]
                )
    return found


def print_figures(figures: Mapping[str, Mapping[str, Any]], length_auc: float) -> None:
    """The table: a term a line."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"held-out characters (length alone: AUC {length_auc:.2f})")
    for title in ("term", "AUC", "95 %", "pairs", "Brier", "ECE", "none", "in role"):
        table.add_column(title, justify="left" if title == "term" else "right", no_wrap=True)
    for name, own in figures.items():
        interval = "-" if None in own["auc_ci95"] else "{:.2f}-{:.2f}".format(*own["auc_ci95"])
        table.add_row(
            name,
            _shown(own["auc"]),
            interval,
            _shown(own["pairs"]["accuracy"]),
            _shown(own.get("brier")),
            _shown(own.get("ece")),
            f"{own['abstained']:.0%}",
            _shown(own["mean_in_role"]),
        )
    Console().print(table)


def _auc_against(labels: NDArray[np.int64], values: Floats, kinds: NDArray[np.object_], kind: str) -> float:
    rows = (labels == 1) | (kinds == kind)
    return auc(labels[rows], values[rows])


def _pairs(score: Score, exam: Exam) -> dict[str, Any]:
    """Accuracy over the pairs of which both have a score, overall and by kind."""
    better = score([pair[1] for pair in exam.pairs])
    worse = score([pair[2] for pair in exam.pairs])
    found = [
        (pair[0], high, low)
        for pair, high, low in zip(exam.pairs, better, worse, strict=True)
        if high is not None and low is not None
    ]
    by_kind = {
        kind: pair_accuracy([h for k, h, _ in found if k == kind], [low for k, _, low in found if k == kind])
        for kind in sorted({kind for kind, _, _ in found})
    }
    accuracy = pair_accuracy([high for _, high, _ in found], [low for _, _, low in found])
    return {"accuracy": accuracy, "n": len(found), "by_kind": by_kind}


def _rounded(value: Any) -> Any:
    """Figures for JSON: rounded, and None where there was nothing to measure."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, _DIGITS) if np.isfinite(value) else None
    return value


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

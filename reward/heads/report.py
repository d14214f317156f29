"""Fitting the in-character classifier with the head that the settings name, and its figures on characters left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reward.fit_in_character import fit_in_character
from reward.heads.examples import length_matched
from reward.heads.figures import Scorer, adversarial_figures, adversarial_pairs, fault_figures
from reward.in_character import InCharacterTerm
from reward.negatives import BaseReply, Character, Example, build_examples
from reward.settings import RewardSettings
from reward.validate import Exam, length_baseline, measure, remembering, values_of


def training_examples(
    characters: Sequence[Character], base_replies: Sequence[BaseReply], settings: RewardSettings, seed: int
) -> list[Example]:
    """What the classifier learns from: positives and negatives of the characters, matched in length if asked for."""
    examples = build_examples(characters, base_replies, seed=seed, kind_weights=settings.all_kind_weights)
    return length_matched(examples) if settings.matches_lengths else examples


def fit_classifier(
    examples: Sequence[Example], settings: RewardSettings, seed: int
) -> tuple[InCharacterTerm, dict[str, dict[str, Any]]]:
    """The fitted term, and by language what it was fitted on and how."""
    if settings.head == "linear":
        encoders = settings.encoders()
        term, fits = fit_in_character(examples, encoders, seed=seed)
        return term, {
            language: {
                "encoder": encoders[language],
                "examples": fit.examples,
                "characters": fit.characters,
                "heads": fit.chosen,
            }
            for language, fit in fits.items()
        }
    from reward.heads.fit import fit_trained

    options, accept = settings.head_options, settings.accept_terms
    term, reports = fit_trained(settings.head, examples, settings.base, options, seed=seed, accept_terms=accept)
    return term, {language: asdict(report) for language, report in reports.items()}


def judge_figures(
    score: Scorer, characters: Sequence[Character], base_replies: Sequence[BaseReply], seed: int
) -> dict[str, Any]:
    """Figures of :func:`~reward.validate.measure`, and ``length_auc``."""
    return _figures(score, Exam.of(characters, base_replies, seed=seed), seed)


def in_character_figures(
    term: InCharacterTerm, characters: Sequence[Character], base_replies: Sequence[BaseReply], seed: int
) -> dict[str, Any]:
    """The same, and of each of the ``faults`` and of the ``adversarial`` pairs about these characters."""
    exam, score = Exam.of(characters, base_replies, seed=seed), remembering(term.score)
    pairs = adversarial_pairs({character.slug: character.card for character in characters})
    return {
        **_figures(score, exam, seed),
        "faults": fault_figures(score, exam.examples),
        "adversarial": adversarial_figures(score, pairs),
    }


def unseen_generators(
    own: Sequence[Character],
    measured: Sequence[Character],
    base_replies: Sequence[BaseReply],
    settings: RewardSettings,
    seed: int,
) -> dict[str, Any]:
    """For each model that wrote base replies, where there are several: AUC against its replies, in part and in whole,
    of a classifier that saw those of the others alone."""
    generators = sorted({base.generator for base in base_replies})
    found = {}
    for generator in generators if len(generators) > 1 else ():
        others = [base for base in base_replies if base.generator != generator]
        term, _ = fit_classifier(training_examples(own, others, settings, seed), settings, seed)
        exam = Exam.of(measured, [base for base in base_replies if base.generator == generator], seed=seed)
        by_kind = measure(values_of(term.score), exam, probability=True, seed=seed)["auc_by_kind"]
        found[generator] = {kind: by_kind.get(kind) for kind in ("base_assistant", "half_assistant")}
    return found


def _figures(score: Scorer, exam: Exam, seed: int) -> dict[str, Any]:
    return {
        **measure(values_of(score), exam, probability=True, seed=seed),
        "length_auc": length_baseline(exam),
    }

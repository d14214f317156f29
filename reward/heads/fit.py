"""Training of the heads that learn by gradients: some characters to learn from, others to calibrate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward.fit_in_character import require_enough
from reward.heads.examples import apart, known_faults
from reward.heads.settings import HeadKind, HeadOptions, base_model
from reward.in_character import InCharacterTerm
from reward.negatives import Example
from reward.text import Language


@dataclass(frozen=True)
class TrainedReport:
    """What a trained head learnt from: examples and characters of a language, and the loss of every epoch."""

    base: str
    examples: int
    characters: int
    calibrated_on: int
    losses: tuple[float, ...]


def fit_trained(
    kind: HeadKind,
    examples: Sequence[Example],
    base: str | None,
    options: HeadOptions,
    *,
    seed: int = 0,
    accept_terms: bool = False,
) -> tuple[InCharacterTerm, dict[Language, TrainedReport]]:
    """Train a cross-encoder or lm head, one for all languages of the examples; the report is by language.

    Raises:
        UserError: too few characters, or a base model that cannot be loaded.
    """
    languages = sorted({example.sample.card.language for example in examples})
    for language in languages:
        require_enough([example for example in examples if example.sample.card.language == language], language)
    name = base_model(kind, base, languages)
    out = apart(examples, seed=seed)
    learn = [example for example, left in zip(examples, out, strict=True) if not left]
    left_out = [example for example, left in zip(examples, out, strict=True) if left]
    # A fault that either part lacks can be learnt or calibrated, not both.
    faults = [fault for fault in known_faults(learn) if fault in known_faults(left_out, characters=1)]
    if kind == "lm":
        from reward.heads.lm import fit_lm

        head, losses = fit_lm(learn, left_out, faults, name, options, seed=seed, accept_terms=accept_terms)
        term = InCharacterTerm(head)
    else:
        from reward.heads.cross_encoder import fit_cross_encoder

        encoder, losses = fit_cross_encoder(learn, left_out, faults, name, options, seed=seed)
        term = InCharacterTerm(encoder)
    reports = {}
    for language in languages:
        own = [example.slug for example in learn if example.sample.card.language == language]
        others = {example.slug for example in left_out if example.sample.card.language == language}
        reports[language] = TrainedReport(name, len(own), len(set(own)), len(others), tuple(losses))
    return term, reports

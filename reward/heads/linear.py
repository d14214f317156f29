"""The linear head: style, embeddings and overlaps under scikit-learn's logistic regression, calibrated.

Two linear heads answer two questions, and a third combines them. *Voice*: is this somebody speaking in a scene, and
not an assistant, an encyclopaedia or the user's ghost-writer? It sees the reply alone: its embedding and its style.
*Match*: is it this character, answering this? It sees what the reply shares with the card and the conversation. One
head over all columns does worse: an encyclopaedia entry matches its card better than a real reply does. Each fault has
a head of its own, over all columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward import features
from reward.embedding import Encoder, NgramEncoder, ngram_dimension, sentence_encoder
from reward.features import feature_names, style_features, visible_text
from reward.heads.faults import FAULTS, fault_parts, named_faults
from reward.heads.interface import Contents
from reward.linear import LinearHead, sigmoid
from reward.matching import Rarity, manner_of, match_features, match_names
from reward.model_files import CONFIG
from reward.text import Language
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

Floats = NDArray[np.float32]
_STYLE_CLIP = 3.0


@dataclass(frozen=True)
class Columns:
    """The raw columns of some samples: voice (N, E + S), match (N, M)."""

    voice: Floats
    match: Floats

    @property
    def all(self) -> Floats:
        """(N, E + S + M)."""
        return np.concatenate([self.voice, self.match], axis=1)


@dataclass(frozen=True)
class LanguageModel:
    """The classifier of one language.

    Args:
        style_mean, style_scale: (S,), the style features' mean and deviation in training.
        joint: a head over the log-probabilities of voice and match.
        faults: by name, a head over all columns; the fault against being in role, at even odds.
    """

    language: Language
    encoder: Encoder
    rarity: Rarity
    style_mean: Floats
    style_scale: Floats
    voice: LinearHead
    match: LinearHead
    joint: LinearHead
    faults: Mapping[str, LinearHead] = field(default_factory=dict)

    def log_odds(self, columns: Columns) -> tuple[Floats, Floats, Floats]:
        """Log-odds of being in role, and of voice and match alone, each (N,)."""
        voice, match = self.voice.log_odds(columns.voice), self.match.log_odds(columns.match)
        return self.joint.log_odds(joint_rows(voice, match)), voice, match

    def fault_probabilities(self, columns: Columns) -> list[dict[str, float]]:
        """For each sample, the probability of each fault that the model knows."""
        rows = columns.all if self.faults else columns.voice
        found = {name: sigmoid(head.log_odds(rows)) for name, head in self.faults.items()}
        return [{name: float(values[at]) for name, values in found.items()} for at in range(len(rows))]


def joint_rows(voice: Floats, match: Floats) -> Floats:
    """log P(voice) and log P(match), (N, 2): a reply must answer both questions, and more of one saturates."""
    return np.stack([-np.logaddexp(0.0, -voice), -np.logaddexp(0.0, -match)], axis=1).astype(np.float32)


def columns_of(
    samples: Sequence[Sample],
    language: Language,
    encoder: Encoder,
    rarity: Rarity,
    style_mean: Floats | None = None,
    style_scale: Floats | None = None,
) -> tuple[Columns, Floats, Floats]:
    """The samples' columns; without style statistics they are measured on these samples. Both come back."""
    style = style_features(samples, language)
    if style_mean is None or style_scale is None:
        deviation = style.std(axis=0)
        style_mean, style_scale = style.mean(axis=0), np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
    manners = _manner_style(samples, language)
    standard = [_clipped((rows - style_mean) / style_scale) for rows in (style, manners)]
    voice = np.concatenate([encoder.encode([visible_text(s.reply) for s in samples]), standard[0]], axis=1)
    match = match_features(samples, encoder, rarity, standard[0], standard[1], language)
    return Columns(voice, match), style_mean, style_scale


def _clipped(standardised: NDArray[np.floating[Any]]) -> Floats:
    return np.asarray(np.clip(standardised, -_STYLE_CLIP, _STYLE_CLIP), np.float32)


def _manner_style(samples: Sequence[Sample], language: Language) -> Floats:
    """The style of each sample's card, (N, S); a group shares its card."""
    cards = {id(sample.card): sample.card for sample in samples}
    rows = style_features([Sample(card, (), manner_of(card)) for card in cards.values()], language)
    place = {key: at for at, key in enumerate(cards)}
    return rows[[place[id(sample.card)] for sample in samples]]


class LinearClassifier:
    """A linear model for each language. Parts of a score: ``voice`` and ``match``, probabilities too, ``log_odds``,
    and ``fault.NAME`` for each fault that the training data had examples of."""

    kind = "linear"

    def __init__(self, models: Mapping[Language, LanguageModel]):
        """Use fitted models."""
        self.models = dict(models)

    @property
    def languages(self) -> tuple[Language, ...]:
        return tuple(self.models)

    def score(self, language: Language, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples whose cards are in ``language``."""
        model = self.models[language]
        mean, scale = model.style_mean, model.style_scale
        columns, _, _ = columns_of(samples, language, model.encoder, model.rarity, mean, scale)
        joint, voice, match = model.log_odds(columns)
        values, voices, matches = sigmoid(joint), sigmoid(voice), sigmoid(match)
        reasons = _reasons(model, columns, values, voices, matches)
        faults = model.fault_probabilities(columns)
        return [
            TermScore(
                float(values[at]),
                (reasons[at] + named_faults(faults[at]),),
                {
                    "voice": float(voices[at]),
                    "match": float(matches[at]),
                    "log_odds": float(joint[at]),
                    **fault_parts(faults[at]),
                },
            )
            for at in range(len(samples))
        ]

    def contents(self) -> Contents:
        """What the directory holds of it."""
        tensors: dict[str, Floats] = {}
        languages: dict[str, Any] = {}
        words: dict[str, Any] = {}
        for language, model in self.models.items():
            tensors |= _stored_tensors(model)
            own = {"encoder": model.encoder.spec, "style": list(feature_names(language)), "faults": [*model.faults]}
            languages[language] = own
            words[language] = {"documents": model.rarity.documents, "counts": dict(model.rarity.counts)}
        return Contents(tensors, {"feature_version": features.VERSION, "languages": languages}, words)

    @classmethod
    def restore(cls, folder: Path, contents: Contents) -> LinearClassifier:
        """The reverse of :meth:`contents`; a directory without faults gives a classifier without them.

        Raises:
            UserError: trained on other features; KeyError, TypeError, ValueError, AttributeError: it does not fit.
        """
        config = contents.config
        if config.get("feature_version") != features.VERSION:
            got = config.get("feature_version")
            place = "feature_version"
            raise UserError(f"got {got!r}, need {features.VERSION}; train again", file=folder / CONFIG, place=place)
        languages = config["languages"].items()
        words, tensors = contents.words, contents.tensors
        return cls({language: _restore(language, entry, words[language], tensors) for language, entry in languages})


def _reasons(model: LanguageModel, columns: Columns, values: Floats, voices: Floats, matches: Floats) -> list[str]:
    """For each sample: the weaker answer where it is out of role, the stronger where in, and what moved it most."""
    groups = {"voice": _voice_groups(model), "match": _match_groups(model)}
    added = {"voice": model.voice.contributions(columns.voice), "match": model.match.contributions(columns.match)}
    lines = []
    for at, value in enumerate(values):
        pair = {"voice": voices[at], "match": matches[at]}
        inside = bool(value >= 0.5)
        question = max(pair, key=lambda key: pair[key]) if inside else min(pair, key=lambda key: pair[key])
        sums: dict[str, float] = {}
        for name, amount in zip(groups[question], added[question][at], strict=True):
            sums[name] = sums.get(name, 0.0) + float(amount)
        ranked = sorted(sums, key=lambda name: sums[name], reverse=inside)[:3]
        named = ", ".join(f"{name} {sums[name]:+.1f}" for name in ranked if (sums[name] > 0) == inside)
        verdict = "in role" if inside else ("not in role" if question == "voice" else "not this character here")
        lines.append(f"in_character: {value:.0%}, {verdict} ({question} {pair[question]:.0%}: {named})")
    return lines


def _voice_groups(model: LanguageModel) -> list[str]:
    return ["meaning"] * model.encoder.dimension + [_group(name) for name in feature_names(model.language)]


def _match_groups(model: LanguageModel) -> list[str]:
    names = match_names(feature_names(model.language), semantic=model.encoder.semantic)
    return ["manner" if name.startswith("manner:") else name.replace("_", " ") for name in names]


def _group(name: str) -> str:
    """The group of a style feature; a word class speaks for itself."""
    return next((group for group, names in features.GROUPS.items() if name in names), name.replace("_", " "))


def _stored_tensors(model: LanguageModel) -> dict[str, Floats]:
    prefix = model.language
    tensors = {f"{prefix}.style_mean": model.style_mean, f"{prefix}.style_scale": model.style_scale}
    for name in ("voice", "match", "joint"):
        tensors |= getattr(model, name).tensors(f"{prefix}.{name}")
    for name, head in model.faults.items():
        tensors |= head.tensors(f"{prefix}.fault.{name}")
    if isinstance(model.encoder, NgramEncoder):
        tensors[f"{prefix}.rarity"] = model.encoder.rarity
        tensors[f"{prefix}.directions"] = model.encoder.directions
    return tensors


def _restore(
    language: Language, entry: Mapping[str, Any], words: Mapping[str, Any], tensors: Mapping[str, Floats]
) -> LanguageModel:
    """One language's model. KeyError, TypeError or ValueError if the entry and the tensors do not fit."""
    spec = str(entry["encoder"])
    encoder: Encoder
    if ngram_dimension(spec):
        encoder = NgramEncoder(tensors[f"{language}.rarity"], tensors[f"{language}.directions"])
    else:
        encoder = sentence_encoder(spec)
    names = feature_names(language)
    if tuple(entry["style"]) != names:
        raise ValueError(f"languages.{language}.style names other features than this program's")
    rarity = Rarity(int(words["documents"]), {str(term): int(count) for term, count in words["counts"].items()})
    widths = {
        "voice": encoder.dimension + len(names),
        "match": len(match_names(names, semantic=encoder.semantic)),
        "joint": 2,
    }
    heads = {name: LinearHead.from_tensors(tensors, f"{language}.{name}", width) for name, width in widths.items()}
    mean, scale = tensors[f"{language}.style_mean"], tensors[f"{language}.style_scale"]
    if mean.shape != (len(names),) or scale.shape != (len(names),):
        raise ValueError(f"{language}.style_mean or {language}.style_scale has the wrong shape")
    faults = _restored_faults(language, entry.get("faults", []), tensors, widths["voice"] + widths["match"])
    own = (heads["voice"], heads["match"], heads["joint"], faults)
    return LanguageModel(language, encoder, rarity, mean, scale, *own)


def _restored_faults(
    language: Language, names: Sequence[str], tensors: Mapping[str, Floats], width: int
) -> dict[str, LinearHead]:
    if unknown := [name for name in names if name not in FAULTS]:
        raise ValueError(f"languages.{language}.faults names {unknown[0]!r}; there are {', '.join(FAULTS)}")
    return {name: LinearHead.from_tensors(tensors, f"{language}.fault.{name}", width) for name in names}

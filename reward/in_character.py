"""The in-character term: the calibrated probability that a reply is the card's character, in role.

Two linear heads answer two questions, and a third combines them. *Voice*: is this somebody speaking in a scene, and
not an assistant, an encyclopaedia or the user's ghost-writer? It sees the reply alone: its embedding and its style.
*Match*: is it this character, answering this? It sees what the reply shares with the card and the conversation. One
head over all columns does worse: an encyclopaedia entry matches its card better than a real reply does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward import features
from reward.embedding import Encoder, NgramEncoder, ngram_dimension, sentence_encoder
from reward.features import feature_names, style_features, visible_text
from reward.linear import LinearHead, sigmoid
from reward.matching import Rarity, manner_of, match_features, match_names
from reward.model_files import CONFIG, read_model, write_model
from reward.text import Language
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

Floats = NDArray[np.float32]
FORMAT, VERSION = "rlrp-in-character", 1
_STYLE_CLIP = 3.0
_READABLE_SHARE = 0.5


@dataclass(frozen=True)
class Columns:
    """The raw columns of some samples: voice (N, E + S), match (N, M)."""

    voice: Floats
    match: Floats


@dataclass(frozen=True)
class LanguageModel:
    """The classifier of one language.

    Args:
        style_mean, style_scale: (S,), the style features' mean and deviation in training.
        joint: a head over the log-probabilities of voice and match.
    """

    language: Language
    encoder: Encoder
    rarity: Rarity
    style_mean: Floats
    style_scale: Floats
    voice: LinearHead
    match: LinearHead
    joint: LinearHead

    def log_odds(self, columns: Columns) -> tuple[Floats, Floats, Floats]:
        """Log-odds of being in role, and of voice and match alone, each (N,)."""
        voice, match = self.voice.log_odds(columns.voice), self.match.log_odds(columns.match)
        return self.joint.log_odds(joint_rows(voice, match)), voice, match


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


class InCharacterTerm:
    """Value: the calibrated probability in [0, 1]. Abstains where it has no model for the card's language, or where
    the reply is in no script it can read; a reply without a letter is worth 0."""

    name = "in_character"

    def __init__(self, models: Mapping[Language, LanguageModel], config: Mapping[str, Any] | None = None):
        """Use fitted models; ``config`` is what the directory says of them."""
        self.models = dict(models)
        self.config = dict(config or {})

    @classmethod
    def load(cls, folder: str | Path) -> InCharacterTerm:
        """Read a directory that :meth:`save` wrote.

        Raises:
            UserError: it is damaged, of another version, or was trained on other features.
        """
        tensors, config, words = read_model(folder, expected=FORMAT, version=VERSION)
        path = Path(folder) / CONFIG
        if config.get("feature_version") != features.VERSION:
            got = config.get("feature_version")
            raise UserError(f"got {got!r}, need {features.VERSION}; train again", file=path, place="feature_version")
        try:
            languages = config["languages"].items()
            parts = {language: _restore(language, entry, words[language], tensors) for language, entry in languages}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"does not fit its tensors ({error}); train again", file=path) from error
        return cls(parts, config)

    def save(self, folder: str | Path) -> None:
        """Write the directory: head.safetensors and config.json."""
        tensors: dict[str, Floats] = {}
        languages: dict[str, Any] = {}
        words: dict[str, Any] = {}
        for language, model in self.models.items():
            tensors |= _stored_tensors(model)
            languages[language] = {"encoder": model.encoder.spec, "style": list(feature_names(language))}
            words[language] = {"documents": model.rarity.documents, "counts": dict(model.rarity.counts)}
        own = {"format": FORMAT, "feature_version": features.VERSION, "languages": languages}
        write_model(folder, tensors, {**self.config, **own}, words, version=VERSION)

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; parts are ``voice`` and ``match``, probabilities too, and ``log_odds``."""
        scores: dict[int, TermScore] = {}
        readable: dict[Language, list[int]] = {}
        for at, sample in enumerate(samples):
            known = self._without_model(sample)
            if known is not None:
                scores[at] = known
            else:
                readable.setdefault(sample.card.language, []).append(at)
        for language, places in readable.items():
            found = self._score_language(self.models[language], [samples[at] for at in places])
            scores.update(zip(places, found, strict=True))
        return [scores[at] for at in range(len(samples))]

    def _without_model(self, sample: Sample) -> TermScore | None:
        """The score of a sample that needs no model, or has none."""
        language = sample.card.language
        if language not in self.models:
            there = ", ".join(self.models)
            return TermScore(None, (f"in_character: no model for {language}, only for {there}",))
        letters = [character for character in visible_text(sample.reply) if character.isalpha()]
        if not letters:
            return TermScore(0.0, ("in_character: the reply says nothing",), {"voice": 0.0, "match": 0.0})
        if sum(map(_readable, letters)) < _READABLE_SHARE * len(letters):
            return TermScore(None, ("in_character: the reply is in a script that the model does not know",))
        return None

    def _score_language(self, model: LanguageModel, samples: Sequence[Sample]) -> list[TermScore]:
        mean, scale = model.style_mean, model.style_scale
        columns, _, _ = columns_of(samples, model.language, model.encoder, model.rarity, mean, scale)
        joint, voice, match = model.log_odds(columns)
        values, voices, matches = sigmoid(joint), sigmoid(voice), sigmoid(match)
        reasons = _reasons(model, columns, values, voices, matches)
        return [
            TermScore(
                float(values[at]),
                (reasons[at],),
                {"voice": float(voices[at]), "match": float(matches[at]), "log_odds": float(joint[at])},
            )
            for at in range(len(samples))
        ]


def _readable(letter: str) -> bool:
    """Whether a letter is Latin or Chinese."""
    return letter < "\u0250" or "\u1e00" <= letter <= "\u1eff" or "\u3400" <= letter <= "\u9fff"


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
    return LanguageModel(language, encoder, rarity, mean, scale, heads["voice"], heads["match"], heads["joint"])

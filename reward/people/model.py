"""The term learnt from people's ratings: how probable it is that people rate the reply above the middle.

A ridge regression on each of three blocks of columns (style, wording and, with a language model, reading), added up.
One model holds several aspects: ``overall``, which is what ``people`` is worth, and each dimension that was rated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward import features
from reward.coverage import not_covered
from reward.linear import sigmoid
from reward.model_files import CONFIG, read_model, write_model
from reward.people import columns
from reward.people.columns import StyleColumns, style_names, wording
from reward.people.reader import shared_reader
from reward.spans import visible
from reward.text import Language, lower_case
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

Floats = NDArray[np.float32]
FORMAT, VERSION = "rlrp-people", 1
OVERALL = "overall"
_CLIP = 3.0
_SHOWN = 3


@dataclass(frozen=True)
class Aspect:
    """What one aspect weighs: a coefficient for each column of each block, a constant, and Platt's slope and offset."""

    style: Floats
    wording: Floats
    reading: Floats
    constant: float
    slope: float
    offset: float


@dataclass(frozen=True)
class PeopleModel:
    """The model of one language.

    Args:
        style_scale, reading_scale: (2, columns), means and deviations in training.
        vocabulary: n-gram to column; rarity: (W,), inverse document frequencies.
        reader: spec of the language model that reads; empty without one.
    """

    language: Language
    style_scale: Floats
    reading_scale: Floats
    vocabulary: Mapping[str, int]
    rarity: Floats
    aspects: Mapping[str, Aspect]
    reader: str = ""
    style: StyleColumns = field(default_factory=StyleColumns, compare=False)

    @cached_property
    def vectorizer(self) -> Any:
        made = wording(dict(self.vocabulary))
        made.idf_ = self.rarity.astype(np.float64)
        return made

    def columns(self, samples: Sequence[Sample]) -> Columns:
        """The samples' columns, standardised."""
        style = standardised(self.style.rows(samples, self.language), self.style_scale)
        words = self.vectorizer.transform([visible(sample.reply) for sample in samples])
        reading = np.zeros((len(samples), 0), np.float32)
        if self.reader:
            reading = standardised(shared_reader(self.reader).read(samples), self.reading_scale)
        return Columns(style, words, reading)


@dataclass(frozen=True)
class Columns:
    """Style (N, S), wording (N, W) sparse, reading (N, H), H 0 without a reader."""

    style: Floats
    wording: Any
    reading: Floats

    def parts(self, aspect: Aspect) -> Floats:
        """What each block adds, (N, 3); with the constant their sum is the raw score."""
        blocks = (self.style @ aspect.style, self.wording @ aspect.wording, self.reading @ aspect.reading)
        return np.stack(blocks, axis=1).astype(np.float32)


def standardised(rows: Floats, scale: Floats) -> Floats:
    clipped: Floats = np.clip((rows - scale[0]) / scale[1], -_CLIP, _CLIP).astype(np.float32)
    return clipped


class People:
    """The models of all languages, as they lie in a directory; the last samples' columns are kept, for other aspects
    are asked about the same ones."""

    def __init__(self, models: Mapping[Language, PeopleModel], config: Mapping[str, Any] | None = None):
        self.models = dict(models)
        self.config = dict(config or {})
        self._last: tuple[tuple[Sample, ...], Columns] | None = None

    def columns(self, language: Language, samples: tuple[Sample, ...]) -> Columns:
        if self._last is None or not _same(self._last[0], samples):
            self._last = samples, self.models[language].columns(samples)
        return self._last[1]

    def save(self, folder: str | Path) -> None:
        """Write the directory: head.safetensors, vocabulary.json and config.json."""
        tensors: dict[str, Floats] = {}
        languages: dict[str, Any] = {}
        for language, model in self.models.items():
            tensors |= {f"{language}.{name}": getattr(model, name) for name in ("style_scale", "reading_scale")}
            tensors[f"{language}.rarity"] = model.rarity
            for name, aspect in model.aspects.items():
                numbers = np.array([aspect.constant, aspect.slope, aspect.offset], np.float32)
                blocks = {"style": aspect.style, "wording": aspect.wording, "reading": aspect.reading}
                tensors |= {f"{language}.{name}.{block}": own for block, own in (*blocks.items(), ("numbers", numbers))}
            names = list(style_names(language))
            languages[language] = {"reader": model.reader, "style": names, "aspects": list(model.aspects)}
        own = {"format": FORMAT, "columns": [features.VERSION, columns.VERSION], "languages": languages}
        words: dict[str, Any] = {language: list(model.vocabulary) for language, model in self.models.items()}
        write_model(folder, tensors, {**self.config, **own}, words, version=VERSION)

    @classmethod
    def load(cls, folder: str | Path) -> People:
        """Read a directory that :meth:`save` wrote.

        Raises:
            UserError: it is damaged, of another version, or was trained on other columns.
        """
        tensors, config, words = read_model(folder, expected=FORMAT, version=VERSION)
        path, needed = Path(folder) / CONFIG, [features.VERSION, columns.VERSION]
        if config.get("columns") != needed:
            raise UserError(f"got {config.get('columns')}, need {needed}; train again", file=path, place="columns")
        try:
            entries = config["languages"].items()
            models = {language: _restore(language, entry, words[language], tensors) for language, entry in entries}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"does not fit its tensors ({error}); train again", file=path) from error
        return cls(models, config)


def _same(first: Sequence[Sample], second: Sequence[Sample]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


@lru_cache(maxsize=4)
def shared_people(folder: str, stamp: int) -> People:
    """A directory's models, loaded once in a process for all their terms; ``stamp`` tells a new one in its place."""
    return People.load(folder)


class PeopleTerm:
    """Value: the calibrated probability, in [0, 1], that people rate the reply above the middle in one aspect.

    Abstains where there is no model for the card's language, where card or reply is neither Chinese nor English, or for
    an empty reply's aspect; a reply without a letter is worth 0. Parts are what style, wording and reading add, in
    log-odds.
    """

    name = "people"

    def __init__(self, people: People, aspect: str = OVERALL):
        """Use a model.

        Raises:
            UserError: no language of it has the aspect.
        """
        known = sorted({name for model in people.models.values() for name in model.aspects})
        if aspect not in known:
            raise UserError(f"no aspect {aspect!r}; there are {', '.join(known)}", place="aspect")
        self._people, self._aspect = people, aspect

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order."""
        unknown = [not_covered(self.name, sample) for sample in samples]
        scores = [
            unable or TermScore(None, (f"{self.name}: no model for {sample.card.language}",))
            for unable, sample in zip(unknown, samples, strict=True)
        ]
        for language, model in self._people.models.items():
            aspect = model.aspects.get(self._aspect)
            places = [
                at for at, sample in enumerate(samples) if sample.card.language == language and unknown[at] is None
            ]
            if aspect is None or not places:
                continue
            own = tuple(samples[at] for at in places)
            columns = self._people.columns(language, own)
            added = columns.parts(aspect)
            log_odds = (added.sum(axis=1) + aspect.constant) * aspect.slope + aspect.offset
            for row, (at, value) in enumerate(zip(places, sigmoid(log_odds), strict=True)):
                if any(character.isalnum() for character in samples[at].reply):
                    scores[at] = self._explained(model, aspect, columns, row, float(value), added[row], samples[at])
                else:
                    scores[at] = TermScore(0.0, (f"{self.name}: the reply says nothing",))
        return scores

    def _explained(
        self,
        model: PeopleModel,
        aspect: Aspect,
        columns: Columns,
        row: int,
        value: float,
        added: Floats,
        sample: Sample,
    ) -> TermScore:
        parts = dict(zip(("style", "wording", "reading"), (float(a) * aspect.slope for a in added), strict=True))
        styles = columns.style[row] * aspect.style * aspect.slope
        names = style_names(model.language)
        good = value >= 0.5
        order = np.argsort(-styles if good else styles)[:_SHOWN]
        told = ", ".join(f"{names[at]} {styles[at]:+.2f}" for at in order if (styles[at] > 0) == good)
        words, spans = _worst_wording(model, aspect, columns, row, sample.reply)
        quoted = "".join(f' "{word}"' for word in words)
        reason = f"{self.name}: {value:.0%} rate it well (style {parts['style']:+.1f}: {told}; "
        reason += f"wording {parts['wording']:+.1f}{quoted}"
        reason += f"; reading {parts['reading']:+.1f})" if model.reader else ")"
        return TermScore(value, (reason,), parts, spans)


def _worst_wording(
    model: PeopleModel, aspect: Aspect, columns: Columns, row: int, reply: str
) -> tuple[list[str], tuple[tuple[int, int], ...]]:
    """The n-grams of two and more characters that cost most, and where they stand."""
    own = columns.wording[row]
    costs = own.data * aspect.wording[own.indices]
    terms = model.vectorizer.get_feature_names_out()
    found: list[str] = []
    spans: list[tuple[int, int]] = []
    low = lower_case(reply)
    for at in np.argsort(costs)[: 4 * _SHOWN]:
        term = str(terms[own.indices[at]])
        place = low.find(term)
        if costs[at] < 0 and len(term.strip()) > 1 and place >= 0:
            inside = any(start <= place < end or place <= start < place + len(term) for start, end in spans)
            if not inside:
                found.append(term.strip())
                spans.append((place, place + len(term)))
        if len(found) == _SHOWN:
            break
    return found, tuple(sorted(spans))


def _restore(
    language: Language, entry: Mapping[str, Any], words: Sequence[str], tensors: Mapping[str, Floats]
) -> PeopleModel:
    """One language's model. KeyError, TypeError or ValueError if the entry and the tensors do not fit."""
    if tuple(entry["style"]) != style_names(language):
        raise ValueError(f"languages.{language}.style names other columns than this program's")
    style, reading = tensors[f"{language}.style_scale"], tensors[f"{language}.reading_scale"]
    widths = {"style": style.shape[1], "wording": len(words), "reading": reading.shape[1], "numbers": 3}
    if widths["style"] != len(entry["style"]) or (reading.shape[1] > 0) != bool(entry["reader"]):
        raise ValueError(f"{language}.style_scale or {language}.reading_scale has the wrong shape")
    aspects = {}
    for name in entry["aspects"]:
        blocks = {block: tensors[f"{language}.{name}.{block}"] for block in widths}
        for block, width in widths.items():
            if blocks[block].shape != (width,) or not np.isfinite(blocks[block]).all():
                raise ValueError(f"{language}.{name}.{block} has a wrong shape or is not finite")
        constant, slope, offset = (float(number) for number in blocks["numbers"])
        aspects[str(name)] = Aspect(blocks["style"], blocks["wording"], blocks["reading"], constant, slope, offset)
    rarity = tensors[f"{language}.rarity"]
    if rarity.shape != (len(words),):
        raise ValueError(f"{language}.rarity has the wrong shape")
    vocabulary = {str(word): at for at, word in enumerate(words)}
    return PeopleModel(language, style, reading, vocabulary, rarity, aspects, str(entry["reader"]))

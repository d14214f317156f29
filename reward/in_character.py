"""The in-character term: the calibrated probability that a reply is the card's character, in role.

What reads the reply is one of three heads (:mod:`reward.heads`); the directory's config.json says which. The term
decides what needs no reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward.features import visible_text
from reward.heads.interface import Classifier, Contents
from reward.heads.linear import LinearClassifier
from reward.model_files import CONFIG, read_model, write_model
from reward.text import Language
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

FORMAT, VERSION = "rlrp-in-character", 1
_READABLE_SHARE = 0.5


class InCharacterTerm:
    """Value: the calibrated probability in [0, 1]. Abstains where it has no model for the card's language, or where
    the reply is in no script it can read; a reply without a letter is worth 0."""

    name = "in_character"

    def __init__(self, head: Classifier, config: Mapping[str, Any] | None = None):
        """Use a fitted head; ``config`` is what the directory says of it."""
        self.head = head
        self.config = dict(config or {})

    @classmethod
    def load(cls, folder: str | Path) -> InCharacterTerm:
        """Read a directory that :meth:`save` wrote; one without ``head`` holds a linear head.

        Raises:
            UserError: it is damaged, of another version, or was trained on other features.
        """
        tensors, config, words = read_model(folder, expected=FORMAT, version=VERSION)
        path = Path(folder) / CONFIG
        try:
            head = _restored(Path(folder), Contents(tensors, config, words))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"does not fit its tensors ({error}); train again", file=path) from error
        return cls(head, config)

    def save(self, folder: str | Path) -> None:
        """Write the directory: head.safetensors, vocabulary.json, config.json and what the head needs beside them."""
        own = self.head.contents()
        config = {**self.config, **own.config, "format": FORMAT, "head": self.head.kind}
        write_model(folder, own.tensors, config, own.words, version=VERSION, further=own.write)

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order; the parts are the head's."""
        scores: dict[int, TermScore] = {}
        readable: dict[Language, list[int]] = {}
        for at, sample in enumerate(samples):
            known = self._without_model(sample)
            if known is not None:
                scores[at] = known
            else:
                readable.setdefault(sample.card.language, []).append(at)
        for language, places in readable.items():
            found = self.head.score(language, [samples[at] for at in places])
            scores.update(zip(places, found, strict=True))
        return [scores[at] for at in range(len(samples))]

    def _without_model(self, sample: Sample) -> TermScore | None:
        """The score of a sample that needs no model, or has none."""
        language = sample.card.language
        if language not in self.head.languages:
            there = ", ".join(self.head.languages)
            return TermScore(None, (f"in_character: no model for {language}, only for {there}",))
        letters = [character for character in visible_text(sample.reply) if character.isalpha()]
        if not letters:
            return TermScore(0.0, ("in_character: the reply says nothing",), {"voice": 0.0, "match": 0.0})
        if sum(map(_readable, letters)) < _READABLE_SHARE * len(letters):
            return TermScore(None, ("in_character: the reply is in a script that the model does not know",))
        return None


def _restored(folder: Path, contents: Contents) -> Classifier:
    kind = contents.config.get("head", LinearClassifier.kind)
    if kind == LinearClassifier.kind:
        return LinearClassifier.restore(folder, contents)
    if kind == "cross-encoder":
        from reward.heads.cross_encoder import CrossEncoderClassifier

        return CrossEncoderClassifier.restore(folder, contents)
    if kind == "lm":
        from reward.heads.lm import LmClassifier

        return LmClassifier.restore(folder, contents)
    raise UserError(f"got {kind!r}, expected linear, cross-encoder or lm", file=folder / CONFIG, place="head")


def _readable(letter: str) -> bool:
    """Whether a letter is Latin or Chinese."""
    return letter < "\u0250" or "\u1e00" <= letter <= "\u1eff" or "\u3400" <= letter <= "\u9fff"

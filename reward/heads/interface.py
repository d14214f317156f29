"""What the ``in_character`` term needs of a head, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reward.text import Language
from rlrp.dialogue.types import Sample
from rlrp.protocols import TermScore


@dataclass(frozen=True)
class Contents:
    """What a head keeps in the model's directory.

    Args:
        tensors: for head.safetensors.
        config: its part of config.json.
        words: for vocabulary.json.
        write: writes any further files (safetensors and JSON) into the folder it is given.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    config: Mapping[str, Any]
    words: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[[Path], None] | None = None


class Classifier(Protocol):
    """A head: the calibrated probability of being in role, and of each fault that it learnt.

    ``kind`` is the head's name in config.json; ``languages`` are those it was trained on.
    """

    kind: str

    @property
    def languages(self) -> Sequence[Language]: ...

    def score(self, language: Language, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples in order, none of them empty; every value is a probability."""
        ...

    def contents(self) -> Contents:
        """What its directory holds."""
        ...

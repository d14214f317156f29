"""The n-gram register ratio: the log-odds that speech was written about somebody rather than said by somebody.

A logistic regression over which runs of characters occur, fitted on what characters say against the same facts told as
a biography or an assistant's answer. The tables are learnt from the project's own texts alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reward.text import Language
from rlrp.cards import CharacterCard
from rlrp.errors import UserError
from rlrp.files import write_text

LEXICONS = Path(__file__).parent.parent / "lexicons"
LIMIT = 6.0
"""Log-odds beyond this say nothing more."""
_LONGEST: dict[Language, int] = {"en": 4, "zh": 3}
_KEPT = 6000
_SPACE, _DIGITS = re.compile(r"\s+"), re.compile(r"\d+")
_STRENGTH = 10.0
_MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class NgramRegister:
    """``score`` is ``bias + sum of weights / sqrt(n)`` over the n runs of a text that the table knows."""

    language: Language
    weights: dict[str, float]
    bias: float

    def score(self, speech: str, card: CharacterCard) -> float:
        """Log-odds between -6 and 6 of the written register; the card's names are left out. 0 for unknown text."""
        table, weights = self._table
        if not len(table):
            return 0.0
        keys = self._keys(_normal(_nameless(speech, card)))
        places = np.minimum(np.searchsorted(table, keys), len(table) - 1)
        known = np.zeros(len(table), bool)  # a run counts once
        known[places[table[places] == keys]] = True
        count = int(np.count_nonzero(known))
        return max(-LIMIT, min(LIMIT, self.bias + float(weights[known].sum()) / math.sqrt(count))) if count else 0.0

    @cached_property
    def _code(self) -> NDArray[np.int64]:
        """The number of each character that is in the table, by code point; 0 for any other."""
        letters = sorted({letter for run in self.weights for letter in run})
        codes = np.zeros(max(map(ord, letters), default=0) + 2, np.int64)
        for number, letter in enumerate(letters, 1):
            codes[ord(letter)] = number
        return codes

    @cached_property
    def _base(self) -> int:
        return int(self._code.max()) + 1

    @cached_property
    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The runs' keys in order, and their weights."""
        keys = np.array([self._keys(run)[-1] for run in self.weights], np.int64)
        sequence = np.argsort(keys)
        return keys[sequence], np.array(list(self.weights.values()))[sequence]

    def _keys(self, text: str) -> NDArray[np.int64]:
        """A number for every run of the text, the longest runs last; another run has another number."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        codes = self._code[np.minimum(points, len(self._code) - 1)]  # the last one is nobody's
        longest, parts, run = _LONGEST[self.language], [codes], codes
        for order in range(1, min(longest, len(codes))):
            run = run[:-1] * self._base + codes[order:]
            parts.append(run + order * self._base**longest)
        return np.concatenate(parts)


def runs(text: str, language: Language) -> set[str]:
    """The runs of one to four (Chinese: three) characters in a text, numbers as 0."""
    text = _normal(text)
    size = len(text)
    return {text[at : at + order] for order in range(1, _LONGEST[language] + 1) for at in range(size - order + 1)}


def _normal(text: str) -> str:
    return f" {_DIGITS.sub('0', _SPACE.sub(' ', text[:_MAX_CHARACTERS].lower())).strip()} "


def _nameless(speech: str, card: CharacterCard) -> str:
    # The longer first: what "Ada" leaves of "Ada Lovelace" would stay, or not, as the set happens to be ordered.
    for name in sorted({card.name, card.nickname, *card.aliases} - {""}, key=lambda name: (-len(name), name)):
        speech = speech.replace(name, "")
    return speech


def fit_ngrams(
    language: Language, said: Sequence[tuple[str, CharacterCard]], written: Sequence[tuple[str, CharacterCard]]
) -> NgramRegister:
    """Fit a table on speech and on texts about somebody, each with the card whose names are left out."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = [_nameless(text, card) for text, card in (*said, *written)]
    labels = [0] * len(said) + [1] * len(written)

    def fitted(vocabulary: list[str] | None) -> tuple[list[str], list[float], float]:
        options = {"min_df": 2} if vocabulary is None else {"vocabulary": vocabulary}
        vectorizer = TfidfVectorizer(analyzer=lambda text: runs(text, language), use_idf=False, binary=True, **options)
        columns = vectorizer.fit_transform(texts)
        model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=1000).fit(columns, labels)
        names = [str(name) for name in vectorizer.get_feature_names_out()]
        return names, [float(weight) for weight in model.coef_[0]], float(model.intercept_[0])

    names, weights, _ = fitted(None)
    kept = sorted(sorted(zip(names, weights, strict=True), key=lambda pair: -abs(pair[1]))[:_KEPT])
    names, weights, bias = fitted([name for name, _ in kept])
    return NgramRegister(language, dict(zip(names, weights, strict=True)), bias)


def save_ngrams(table: NgramRegister, folder: Path = LEXICONS) -> Path:
    """Write a table, a run a line, three significant digits."""
    data = {
        "bias": float(f"{table.bias:.4g}"),
        "weights": {run: float(f"{weight:.3g}") for run, weight in sorted(table.weights.items())},
    }
    path = folder / f"register_ngrams_{table.language}.json"
    write_text(path, json.dumps(data, ensure_ascii=False, indent=0) + "\n")
    return path


@cache
def ngram_register(language: Language) -> NgramRegister:
    """The shipped table of a language."""
    path = LEXICONS / f"register_ngrams_{language}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return NgramRegister(language, {str(k): float(v) for k, v in data["weights"].items()}, float(data["bias"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not a table of n-grams: {error}", file=path) from error

"""Cleaning: dialogues that say little, and texts that say the same.

Near-duplicates follow Broder (1997): MinHash signatures of shingles, cut into bands so that similar texts collide in
one, and every pair that does is verified by its exact Jaccard similarity. So a pair that is found is right; one may be
missed, with the small probability given at ``near_duplicates``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray

from rlrp.cards import detect_language
from rlrp.dialogue.types import Dialogue
from rlrp.errors import UserError

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_LARGEST_MISS = 1e-3


def units(text: str) -> list[str]:
    """The words of a text in small letters; of a Chinese text, the characters. Punctuation does not count."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if detect_language(text) == "zh":
        return [character for word in words for character in word]
    return words


def drop_uninformative(dialogues: Iterable[Dialogue], min_reply_units: int) -> list[Dialogue]:
    """Keep the dialogues whose replies say something, as talk cut out of novels often does not.

    A reply counts by its different ``units`` ("no, no, no" is one). A dialogue stays if its median reply has at
    least ``min_reply_units``: single short replies are part of good dialogue. Whole dialogues go, since one with a
    hole in it teaches the model to miss the point.
    """
    return [dialogue for dialogue in dialogues if _median_reply(dialogue) >= min_reply_units]


def _median_reply(dialogue: Dialogue) -> float:
    counts = [len(set(units(message.content))) for message in dialogue.messages if message.role == "assistant"]
    return median(counts) if counts else 0.0


def shingles(text: str, *, words: int = 3, characters: int = 5) -> frozenset[str]:
    """The runs of ``words`` words of a text, or of ``characters`` characters if it is Chinese.

    A shorter text is one shingle; a text without a letter has none.
    """
    found = units(text)
    length = characters if detect_language(text) == "zh" else words
    if not found:
        return frozenset()
    return frozenset(" ".join(found[i : i + length]) for i in range(max(1, len(found) - length + 1)))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Shared elements over all elements; 0 if both are empty."""
    together = len(left | right)
    return len(left & right) / together if together else 0.0


def near_duplicates(
    texts: Sequence[str],
    threshold: float = 0.5,
    *,
    words: int = 3,
    characters: int = 5,
    num_perm: int = 64,
    seed: int = 0,
) -> list[tuple[int, int, float]]:
    """Pairs of texts whose shingles have at least ``threshold`` Jaccard similarity.

    A pair exactly at the threshold is missed with probability (1 - t^r)^b for b bands of r rows, kept under 0.001
    by the choice of r (1e-4 at the defaults, where r = 2 and b = 32), and a more similar pair with far less. Below a
    threshold of 0.1, 64 permutations are too few for that; take more.

    Args:
        words: per shingle, in texts that are not Chinese; characters: per shingle in Chinese ones.
        num_perm: hash functions per signature.
        seed: of the hash functions.

    Returns:
        (i, j, similarity) with i < j, in order.

    Raises:
        UserError: the threshold is not above 0 and at most 1, or there are no permutations.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"got {threshold}, expected above 0 and at most 1", place="threshold")
    if num_perm < 1:
        raise UserError(f"got {num_perm}, expected at least 1", place="num_perm")
    sets = [shingles(text, words=words, characters=characters) for text in texts]
    filled = [index for index, found in enumerate(sets) if found]
    signatures = {index: _signature(sets[index], num_perm, seed) for index in filled}
    rows = _rows(threshold, num_perm)
    pairs = set(_candidates(signatures, rows, num_perm))
    scored = ((i, j, jaccard(sets[i], sets[j])) for i, j in sorted(pairs))
    return [(i, j, similarity) for i, j, similarity in scored if similarity >= threshold]


def _signature(found: frozenset[str], num_perm: int, seed: int) -> NDArray[np.uint64]:
    """The smallest hash of the shingles under each of ``num_perm`` functions, shape (num_perm,)."""
    hashes = np.array(
        [
            int.from_bytes(hashlib.blake2b(item.encode("utf-8", "surrogatepass"), digest_size=8).digest())
            for item in found
        ],
        dtype=np.uint64,
    )
    rng = np.random.default_rng(seed)
    limit = np.iinfo(np.uint64).max
    factors = rng.integers(0, limit, num_perm, dtype=np.uint64, endpoint=True) | np.uint64(1)
    offsets = rng.integers(0, limit, num_perm, dtype=np.uint64, endpoint=True)
    # Multiply-shift: products wrap around at 2^64 and the upper half, which mixes well, is kept.
    smallest: NDArray[np.uint64] = ((hashes[:, None] * factors + offsets) >> np.uint64(32)).min(axis=0)
    return smallest


def _rows(threshold: float, num_perm: int) -> int:
    """The most rows per band (fewest false candidates) that keep the chance of a miss small."""
    fitting = [rows for rows in range(1, num_perm + 1) if (1 - threshold**rows) ** (num_perm // rows) <= _LARGEST_MISS]
    return max(fitting, default=1)


def _candidates(signatures: dict[int, NDArray[np.uint64]], rows: int, num_perm: int) -> Iterator[tuple[int, int]]:
    """Pairs that agree on all rows of some band."""
    for start in range(0, num_perm - rows + 1, rows):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, signature in signatures.items():
            buckets[signature[start : start + rows].tobytes()].append(index)
        for bucket in buckets.values():
            yield from combinations(bucket, 2)

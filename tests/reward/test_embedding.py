"""A text's vector: its bits are those of the text alone, whatever it is encoded with and whatever came before."""

from __future__ import annotations

import numpy as np
import pytest

from reward.embedding import SentenceEncoder
from rlrp.errors import UserError

TEXTS = [
    "What o'clock is it?",
    "I am Sherlock Holmes; you have been in Afghanistan, I perceive.",
    "The moor is black tonight, and I shall not rest until she answers me from beneath the cold earth. " * 3,
    "Hm.",
    "Sit by the fire, child, and mind the cat: she was a duchess once, and has not forgotten it.",
]


@pytest.fixture(scope="module", params=["packaged:all-minilm-l6-v2", "tiny"])
def encoder(request: pytest.FixtureRequest) -> SentenceEncoder:
    """A sentence encoder, and a plain language model whose token vectors are averaged."""
    try:
        return SentenceEncoder(request.getfixturevalue("tiny_folder") if request.param == "tiny" else request.param)
    except UserError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(f"needs the package index: {error}")


def test_company_and_memory_change_no_bit(encoder: SentenceEncoder) -> None:
    def fresh(*texts: str) -> np.ndarray:
        encoder._known.clear()
        return encoder.encode(texts)

    together = fresh(*TEXTS)
    for at, text in enumerate(TEXTS):
        assert (fresh(text)[0] == together[at]).all()
    fresh(*TEXTS[:2])
    assert (encoder.encode(TEXTS) == together).all()
    assert (fresh(*reversed(TEXTS))[::-1] == together).all()


def test_vectors_are_those_of_the_library(encoder: SentenceEncoder) -> None:
    expected = encoder._model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=2e-6)


def test_a_text_that_is_too_long_is_cut(encoder: SentenceEncoder) -> None:
    long = "The tide goes out and the tide comes in. " * 200
    assert (encoder.encode([long]) == encoder.encode([long + "And then, silence."])).all()


def test_no_texts_have_no_vectors(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dimension)

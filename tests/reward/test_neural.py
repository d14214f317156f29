"""R and S against their definitions, computed by the plain forward; a model against itself says nothing."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward.dissonance.neural import CLIP, NeuralScorer, _aligned, _tokenised
from reward.dissonance.substitute import substitute
from reward.text import Language
from rlrp.cards import CharacterCard
from rlrp.dialogue.types import Message, Sample
from rlrp.lm.load import LanguageModel, load_model, load_tokenizer

AHAB = CharacterCard(name="Ahab", description="Captain of the whaler Pequod.", gender="male")
ZHANG = CharacterCard(name="张飞", description="燕人，性如烈火。", gender="male")
ASKED = (Message("user", "Shall we turn back, sir?"),)


@pytest.fixture(scope="module")
def framed(smollm2: str) -> NeuralScorer:
    return NeuralScorer(smollm2)


@cache
def model_of(spec: str) -> LanguageModel:
    return load_model(spec)


@cache
def tokenizer_of(spec: str) -> Any:
    return load_tokenizer(spec)


def plain(spec: str, prompt: str, text: str) -> list[float]:
    """Log-probabilities of the text's tokens behind a prompt, by transformers alone."""
    lm = model_of(spec)
    front, back = (lm.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, text))
    with torch.no_grad():
        logits = lm.model(torch.tensor([front + back])).logits[0, len(front) - 1 : -1].log_softmax(-1)
    return [float(logits[at, token]) for at, token in enumerate(back)]


def test_r_is_the_mean_clipped_ratio_of_the_two_framings(framed: NeuralScorer, smollm2: str) -> None:
    reply = "Turn back? Never, while the white whale lives."
    scene = "Captain of the whaler Pequod.\n\nUser: Shall we turn back, sir?\nAhab: "
    about = "The following is a description of Ahab:\n"
    pairs = zip(plain(smollm2, scene, reply), plain(smollm2, about, reply), strict=True)
    expected = [max(-CLIP, min(CLIP, d - a)) for d, a in pairs]
    found = framed.read([Sample(AHAB, ASKED, reply)])[0]
    assert found is not None and found.tolerance is None and found.tokens == len(expected)
    assert found.ratio == pytest.approx(sum(expected) / len(expected), abs=1e-3)


def test_s_compares_the_losses_of_the_common_tokens(framed: NeuralScorer, smollm2: str) -> None:
    reply, about_him = "I have seen him breach at dawn.", "Ahab has seen him breach at dawn."
    scene = "Captain of the whaler Pequod.\n\nUser: Shall we turn back, sir?\nAhab: "
    about = "The following is a description of Ahab:\n"
    logp = {(frame, text): plain(smollm2, frame, text) for frame, text in product((scene, about), (reply, about_him))}
    tail = 6  # " seen him breach at dawn." are the last tokens of both
    tokens = [tokenizer_of(smollm2)(text)["input_ids"] for text in (reply, about_him)]
    while tokens[0][-tail:] != tokens[1][-tail:]:
        tail -= 1
    tail -= 1  # the first of them touches the verb that was inflected
    changes = {
        frame: [new - old for old, new in zip(logp[frame, reply][-tail:], logp[frame, about_him][-tail:], strict=True)]
        for frame in (scene, about)
    }
    expected = [max(-CLIP, min(CLIP, a - d)) for a, d in zip(changes[about], changes[scene], strict=True)]
    found = framed.read([Sample(AHAB, ASKED, reply)])[0]
    assert found is not None and found.tolerance == pytest.approx(sum(expected) / len(expected), abs=1e-3)


def test_replies_in_a_batch_are_read_as_alone_and_silence_says_nothing(framed: NeuralScorer) -> None:
    replies = ["I will have him.", "*looks at the sea*", "", "My leg aches. I feel the storm in it, and you do not."]
    samples = [Sample(AHAB, ASKED, reply) for reply in replies]
    together, alone = framed.read(samples), [framed.read([sample])[0] for sample in samples]
    assert [own is None for own in together] == [False, True, True, False]
    for one, other in zip(together, alone, strict=True):
        if one is not None and other is not None:
            assert one.ratio == pytest.approx(other.ratio, abs=1e-3) and one.tolerance == pytest.approx(
                other.tolerance, abs=1e-3
            )


def test_a_model_against_itself_says_nothing(smollm2: str) -> None:
    samples = [Sample(AHAB, ASKED, "I know these waters, and I know you, sir.")]
    found = NeuralScorer(smollm2, smollm2).read(samples)[0]
    assert (
        found is not None
        and found.ratio == pytest.approx(0, abs=1e-6)
        and found.tolerance == pytest.approx(0, abs=1e-6)
    )


TEXTS: dict[Language, tuple[CharacterCard, str]] = {
    "en": (AHAB, "I my me. you said am was mine myself! Ahab's “hand” née 'tis,"),
    "zh": (ZHANG, "我俺我的自己你。！张飞怕不，说好"),
}


@given(st.sampled_from(sorted(TEXTS)), st.data())
def test_aligned_tokens_are_the_same_text_and_touch_no_change(
    smollm2: str, language: Language, data: st.DataObject
) -> None:
    card, alphabet = TEXTS[language]
    parts = st.lists(st.sampled_from(alphabet.split() if language == "en" else alphabet), max_size=12)
    text = (" " if language == "en" else "").join(data.draw(parts))
    tokenizer = tokenizer_of(smollm2)
    change = substitute(text, card, language)
    old, new = _tokenised(tokenizer, text), _tokenised(tokenizer, change.text)
    for at, other in _aligned(old, new, change, text):
        (a, b), (c, d) = old.offsets[at], new.offsets[other]
        assert text[a:b] == change.text[c:d] and old.ids[at] == new.ids[other]
        assert all(b < left or right < a for (left, right), _ in change.spans)

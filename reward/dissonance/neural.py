"""The two registers read by frozen language models: the ratio R, and the substitution tolerance S.

``R = mean_t clip(log p_D(t) - log p_A(t))`` over the tokens of the speech, names left out: how much more the words are
those of somebody speaking (D) than of a text about somebody (A).

``S = mean_t clip({log p_A(t | σ(y)) - log p_A(t | y)} - {log p_D(t | σ(y)) - log p_D(t | y)})`` with σ putting the name
where the speech says "I", over the tokens that both texts have in common from the first substitution to the end of its
sentence: a difference in differences, high where the text welcomes the third person as a description and does not mind
losing the "I". Nats a token, clipped to ±3. The definition is the project's own.

D and A are one model under two framings (the card and the conversation, or "The following is a description of ...:"),
or two models under one: the role-play checkpoint and the assistant it was tuned from. Every variant of a reply is
scored behind its prompt, which is computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reward.dissonance.scorer import Registers
from reward.dissonance.substitute import Offsets, Substitution, substitute
from reward.script import script
from reward.spans import join, reply_spans
from reward.text import Language, language_of, sentences
from rlrp.cards import CharacterCard
from rlrp.dialogue.types import Sample
from rlrp.lm.load import LanguageModel, load_model
from rlrp.lm.prompts import role_play_messages
from rlrp.lm.scoring import by_prompt, micro_batches, token_logprobs
from rlrp.lm.self_check import use_shared_prefix

CLIP = 3.0
_PROMPT_TOKENS, _SPEECH_TOKENS, _TOKEN_BUDGET = 700, 192, 2048
_CARD, _MESSAGE, _MESSAGES = 600, 400, 3
"""Characters of the card and of each message, and messages, in the framing of a base model."""
_ABOUT: dict[Language, str] = {"zh": "以下是关于{name}的介绍：\n", "en": "The following is a description of {name}:\n"}


@dataclass(frozen=True)
class _Text:
    """One variant of a reply's speech: its token ids, and where each token stands in it."""

    ids: tuple[int, ...]
    offsets: tuple[Offsets, ...]


class NeuralScorer:
    """Reads R and S. ``model`` plays D, and A too unless ``assistant`` is given."""

    def __init__(self, model: str, assistant: str | None = None, *, accept_terms: bool = False):
        """Load the models.

        Raises:
            UserError: no such model, terms that were not accepted, or tokenizers that differ.
        """
        self._dialogue = _loaded(model, accept_terms)
        self._assistant = _loaded(assistant, accept_terms) if assistant else None

    def read(self, samples: Sequence[Sample]) -> list[Registers | None]:
        """In order; None for a reply without speech."""
        speeches = [join(sample.reply, reply_spans(sample), "speech").strip() for sample in samples]
        known = [at for at, speech in enumerate(speeches) if speech]
        work = [_Variants.of(speeches[at], samples[at].card, self._dialogue.tokenizer) for at in known]
        if self._assistant is None:
            frames = [(self._dialogue, [_scene(self._dialogue, samples[at]) for at in known])]
            frames += [(self._dialogue, [_about(self._dialogue, samples[at], speeches[at]) for at in known])]
        else:
            frames = [(lm, [_chat(lm, samples[at]) for at in known]) for lm in (self._dialogue, self._assistant)]
        scored = [_score(lm, prompts, [own.texts for own in work]) for lm, prompts in frames]
        found: list[Registers | None] = [None] * len(samples)
        for row, at in enumerate(known):
            found[at] = work[row].registers(scored[0][row], scored[1][row])
        return found


@dataclass(frozen=True)
class _Variants:
    """The speech and, where it says "I", the speech about somebody with the name, and with he or she, later on."""

    texts: tuple[_Text, ...]
    substitutions: tuple[Substitution, ...]
    speech: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, speech: str, card: CharacterCard, tokenizer: Any) -> _Variants:
        language = language_of(speech, card.language)
        variants = [substitute(speech, card, language, later=later) for later in ("name", "pronoun")]
        changed = [own for own in variants if own.spans]
        if len(changed) == 2 and changed[0].text == changed[1].text:
            changed = changed[:1]
        texts = tuple(_tokenised(tokenizer, text) for text in (speech, *(own.text for own in changed)))
        names = tuple(name for name in {card.name, card.display_name, card.nickname, *card.aliases} if name)
        return cls(texts, tuple(changed), speech, names)

    def registers(self, dialogue: list[list[float]], assistant: list[list[float]]) -> Registers:
        """From the log-probabilities of every text's tokens under D and under A."""
        own = self.texts[0]
        kept = [at for at, (start, end) in enumerate(own.offsets) if not self._is_name(start, end)]
        ratios = [_clipped(dialogue[0][at] - assistant[0][at]) for at in kept if at < len(dialogue[0])]
        tolerances = [self._tolerance(n, dialogue, assistant) for n in range(1, len(self.texts))]
        likelier = max((pair for pair in tolerances if pair is not None), default=None)
        return Registers(_mean(ratios), likelier[1] if likelier else None, len(ratios))

    def _is_name(self, start: int, end: int) -> bool:
        piece = self.speech[start:end].strip()
        return not piece or any(piece in name for name in self.names if len(piece) > 1)

    def _tolerance(
        self, variant: int, dialogue: list[list[float]], assistant: list[list[float]]
    ) -> tuple[float, float] | None:
        """(log p of the variant under A, S by it): of the two ways to go on after the name the likelier counts."""
        pairs = _aligned(self.texts[0], self.texts[variant], self.substitutions[variant - 1], self.speech)
        size, other = len(dialogue[0]), len(dialogue[variant])
        values = [
            _clipped((assistant[variant][new] - assistant[0][old]) - (dialogue[variant][new] - dialogue[0][old]))
            for old, new in pairs
            if old < size and new < other
        ]
        mean = _mean(values)
        return None if mean is None else (sum(assistant[variant]), mean)


def _aligned(old: _Text, new: _Text, change: Substitution, speech: str) -> list[tuple[int, int]]:
    """Tokens that both texts have, after a substitution in their sentence and touching none."""
    places = {key: at for at, key in enumerate(_keyed(new.offsets))}
    keys, found = _keyed(old.offsets), []
    for start, end in sentences(speech):
        first = next((span for span, _ in change.spans if start <= span[0] < end), None)
        if first is None:
            continue
        for at, (left, right, turn) in enumerate(keys):
            if not first[1] < left <= right <= end or any(a <= right and left <= b for (a, b), _ in change.spans):
                continue
            shift = sum((d - c) - (b - a) for (a, b), (c, d) in change.spans if b <= left)
            other = places.get((left + shift, right + shift, turn))
            if other is not None and old.ids[at] == new.ids[other]:
                found.append((at, other))
    return found


def _keyed(offsets: Sequence[Offsets]) -> list[tuple[int, int, int]]:
    """Each token's place, and its turn among those of the same place: a character may be several tokens."""
    turns: Counter[Offsets] = Counter()
    keys = []
    for span in offsets:
        keys.append((*span, turns[span]))
        turns[span] += 1
    return keys


def _tokenised(tokenizer: Any, text: str) -> _Text:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = tuple((int(a), int(b)) for a, b in encoded["offset_mapping"][:_SPEECH_TOKENS])
    return _Text(tuple(encoded["input_ids"][:_SPEECH_TOKENS]), offsets)


def _score(
    lm: LanguageModel, prompts: Sequence[tuple[int, ...]], texts: Sequence[tuple[_Text, ...]]
) -> list[list[list[float]]]:
    """Log-probabilities, by reply, variant and token; replies to one prompt share it."""
    rows = [(row, variant) for row, own in enumerate(texts) for variant in range(len(own))]
    groups, places = by_prompt([prompts[row] for row, _ in rows], [texts[row][variant].ids for row, variant in rows])
    found: list[list[list[float]]] = [[[] for _ in own] for own in texts]
    with torch.no_grad():
        for part, where in micro_batches(groups, _TOKEN_BUDGET):
            logp = token_logprobs(lm.model, part).logp
            sizes = [len(completion) for group in part for completion in group.completions]
            for (group, completion), own in zip(where, logp.split(sizes), strict=True):
                row, variant = rows[places[group][completion]]
                found[row][variant] = own.float().tolist()
    return found


def _scene(lm: LanguageModel, sample: Sample) -> tuple[int, ...]:
    """The card and the conversation as a script, for a model that need not know a chat format."""
    text = script(sample, description=_CARD, message=_MESSAGE, messages=_MESSAGES)
    return tuple(lm.tokenizer(text)["input_ids"][-_PROMPT_TOKENS:])


def _about(lm: LanguageModel, sample: Sample, speech: str) -> tuple[int, ...]:
    language = language_of(speech, sample.card.language)
    return tuple(lm.tokenizer(_ABOUT[language].format(name=sample.card.display_name))["input_ids"])


def _chat(lm: LanguageModel, sample: Sample) -> tuple[int, ...]:
    return tuple(lm.chat.encode_prompt(role_play_messages(sample.card, sample.messages))[-_PROMPT_TOKENS:])


def _loaded(spec: str, accept_terms: bool) -> LanguageModel:
    lm = load_model(spec, accept_terms=accept_terms)
    use_shared_prefix(lm.model)
    return lm


def _clipped(value: float) -> float:
    return max(-CLIP, min(CLIP, value))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

"""What the in-character classifier and the judge learn from: replies in role, and replies at fault in known ways.

Positives are the characters' own replies in their dialogues and the right halves of the contrasts. Every negative is
real text of a known kind; kinds share the weight of the negatives so that a cheap kind, of which there may be any
number, does not become the definition of being out of role.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reward.features import card_summary, expanded
from reward.spans import split_spans
from reward.text import sentences, units
from rlrp.cards import CharacterCard
from rlrp.dialogue import Contrast, Dialogue, Message, Pool, Sample

IN_ROLE = "in_role"
MISPLACED = frozenset({"other_character", "shuffled", "parroting", "contradicts_card"})
"""Kinds that are good text out of its place; the others are faulty wherever they stand."""

KIND_WEIGHTS: dict[str, float] = {
    "other_character": 1.0,
    "base_assistant": 1.0,
    "half_assistant": 0.5,
    "biography": 0.6,
    "speaks_for_user": 0.4,
    "over_cooperative": 0.5,
    "repeated": 0.15,
    "shuffled": 0.3,
    "parroting": 0.3,
    "assistant_tone": 0.5,
    "breaks_fourth_wall": 0.5,
    "contradicts_card": 0.5,
}
"""Each kind's share of the negatives' weight, before it is normalised over the kinds that are there. The tone of an
assistant in disguise and the broken fourth wall come from contrasts of one's own alone."""
_OWN_KIND = 0.4
"""Of a kind that a user's contrasts have made up."""
_FULL_STOP = re.compile(r"[.!?](?=\s|$)[\"”’)*]*|[。！？…][”’」』）]*")
_PHRASE = 4
"""Units that a sentence of the assistant's needs to tell it from anybody else's."""
_SWAPS = 3
"""Other characters' replies in the place of each reply; they are texts that are there anyway, so they cost little."""


@dataclass(frozen=True)
class BaseReply:
    """What the base model, an assistant, answered in the character's place; ``generator`` names the model where there
    are several."""

    card_slug: str
    messages: tuple[Message, ...]
    reply: str
    generator: str = ""


@dataclass(frozen=True)
class Character:
    """All there is of one character."""

    slug: str
    card: CharacterCard
    dialogues: tuple[Dialogue, ...]
    contrasts: tuple[Contrast, ...] = ()

    @property
    def archetype(self) -> str:
        own = self.card.extensions.get("rlrp")
        return str(own.get("archetype", "")) if isinstance(own, Mapping) else ""


@dataclass(frozen=True)
class Example:
    """A labelled sample. ``kind`` is ``in_role`` for positives; ``slug`` is the character it is grouped by."""

    sample: Sample
    kind: str
    slug: str
    weight: float = 1.0

    @property
    def label(self) -> int:
        return int(self.kind == IN_ROLE)


def characters_of(pool: Pool, *, held_out: bool) -> list[Character]:
    """The pool's training characters, or those held out, each with its dialogues and contrasts, in order of slug.

    A card that only a dialogue has counts as a character too, under its name; dialogues without a card are left out.
    """
    cards = dict(pool.held_out_cards if held_out else pool.train_cards)
    slug_by_card = {id(card): slug for slug, card in cards.items()}
    dialogues: dict[str, list[Dialogue]] = defaultdict(list)
    for dialogue in pool.held_out_dialogues if held_out else pool.train_dialogues:
        if dialogue.card is not None:
            slug = slug_by_card.get(id(dialogue.card)) or pool.slug_of(dialogue.card) or dialogue.card.name
            cards.setdefault(slug, dialogue.card)
            dialogues[slug].append(dialogue)
    contrasts: dict[str, list[Contrast]] = defaultdict(list)
    for contrast in pool.held_out_contrasts if held_out else pool.train_contrasts:
        contrasts[contrast.card_slug].append(contrast)
    return [
        Character(slug, card, tuple(dialogues[slug]), tuple(contrasts[slug])) for slug, card in sorted(cards.items())
    ]


def build_examples(
    characters: Sequence[Character],
    base_replies: Iterable[BaseReply] = (),
    *,
    seed: int = 0,
    kind_weights: Mapping[str, float] = KIND_WEIGHTS,
) -> list[Example]:
    """Positives and negatives of these characters, weighted; negatives borrow only from these characters.

    Languages are kept apart: another character's reply is in the card's language. The weights of positives and of
    negatives each sum to the number of positives, in every language.
    """
    rng = random.Random(f"negatives {seed}")
    examples: list[Example] = []
    for language in ("en", "zh"):
        own = [character for character in characters if character.card.language == language]
        found = [example for character in own for example in _positives(character)]
        assistant = _base(own, base_replies, rng)
        found += _faulty(own) + assistant + _half(found, assistant, rng) + _degenerate(found, rng)
        found += _other_characters(own, rng) + _shuffled(own, rng) + _parroting(own, rng)
        examples += _weighted(found, kind_weights)
    return examples


def turns(dialogue: Dialogue) -> list[tuple[tuple[Message, ...], str]]:
    """The character's turns: the messages before each, and what was said."""
    said = [message for message in dialogue.messages if message.role != "system"]
    return [(tuple(said[:at]), m.content) for at, m in enumerate(said) if m.role == "assistant" and at]


def replies_of(dialogues: Iterable[Dialogue]) -> list[Sample]:
    """Every reply of the dialogues that have a card."""
    return [
        Sample(dialogue.card, before, reply)
        for dialogue in dialogues
        if dialogue.card is not None
        for before, reply in turns(dialogue)
    ]


def _positives(character: Character) -> list[Example]:
    card, slug = character.card, character.slug
    found = [Sample(card, before, reply) for dialogue in character.dialogues for before, reply in turns(dialogue)]
    found += [Sample(card, (Message("user", pair.user),), pair.in_role) for pair in character.contrasts]
    return [Example(sample, IN_ROLE, slug) for sample in found]


def _faulty(characters: Sequence[Character]) -> list[Example]:
    return [
        Example(Sample(character.card, (Message("user", pair.user),), pair.faulty), pair.kind, character.slug)
        for character in characters
        for pair in character.contrasts
    ]


def _base(characters: Sequence[Character], base_replies: Iterable[BaseReply], rng: random.Random) -> list[Example]:
    """The assistant's answers. Every other one is cut back to whole sentences and to the length of a reply in role, so
    that neither being long nor being broken off by a length limit is what an assistant is known by."""
    cards = {character.slug: character.card for character in characters}
    lengths = [units(example.sample.reply) for character in characters for example in _positives(character)]
    found = []
    for at, base in enumerate(base_replies):
        reply = _shortened(base.reply, rng.choice(lengths)) if at % 2 and lengths else base.reply.strip()
        if base.card_slug in cards and reply:
            sample = Sample(cards[base.card_slug], base.messages, reply)
            found.append(Example(sample, "base_assistant", base.card_slug))
    return found


def _half(positives: Sequence[Example], assistant: Sequence[Example], rng: random.Random) -> list[Example]:
    """Half of the replies with a sentence of the assistant's in the place of one of their own: a policy on its way from
    the assistant to the character talks like both at once, and the assistant's part must show."""
    said = [part for example in assistant for part in pieces(example.sample.reply) if units(part) >= _PHRASE]
    found = []
    for example in rng.sample(positives, k=len(positives) // 2 if said else 0):
        own = pieces(example.sample.reply)
        place = rng.randrange(len(own)) if own else 0
        mixed = [*own[:place], rng.choice(said), *own[place + 1 :]]
        sample = replace(example.sample, reply=_joined(mixed, example.sample.card))
        found.append(replace(example, sample=sample, kind="half_assistant"))
    return found


def _shortened(reply: str, length: int) -> str:
    """The reply up to the last full stop within ``length`` units, else the first; all of it if it has none."""
    ends = [match.end() for match in _FULL_STOP.finditer(reply)]
    short = [end for end in ends if units(reply[:end]) <= length]
    return reply[: (short or ends[:1] or [len(reply)])[-1]].strip()


def _other_characters(characters: Sequence[Character], rng: random.Random) -> list[Example]:
    """In the place of each reply, what somebody else said at the same turn: of the same gender and another archetype
    where there is one, so that neither a pronoun nor a type gives it away, and a similar type is not called wrong."""
    found = []
    for character in characters:
        others = _strangers(character, characters)
        if not others:
            continue
        for example in _positives(character):
            for other in rng.sample(others, min(_SWAPS, len(others))):
                replies = _replies_at(other, len(example.sample.messages))
                if replies:
                    sample = replace(example.sample, reply=rng.choice(replies))
                    found.append(Example(sample, "other_character", character.slug))
    return found


def _strangers(character: Character, characters: Sequence[Character]) -> list[Character]:
    rest = [other for other in characters if other.slug != character.slug]
    apart = [other for other in rest if not other.archetype or other.archetype != character.archetype]
    alike = [other for other in apart if other.card.gender == character.card.gender]
    return alike or apart or rest


def _replies_at(character: Character, place: int) -> list[str]:
    """The character's replies after ``place`` messages, or all of its replies if there is none so far on."""
    replies = [(len(before), reply) for dialogue in character.dialogues for before, reply in turns(dialogue)]
    if place == 1:
        replies += [(1, pair.in_role) for pair in character.contrasts]
    return [reply for at, reply in replies if at == place] or [reply for _, reply in replies]


def _degenerate(positives: Sequence[Example], rng: random.Random) -> list[Example]:
    """A quarter of the replies said twice, as sampling goes wrong."""
    return [
        replace(example, sample=replace(example.sample, reply=_twice(example.sample.reply, rng)), kind="repeated")
        for example in rng.sample(positives, k=len(positives) // 4)
    ]


def _twice(reply: str, rng: random.Random) -> str:
    """The reply, or its second half, said again."""
    spans = sentences(reply)
    start = spans[len(spans) // 2][0] if len(spans) > 1 and rng.random() < 0.5 else 0
    return f"{reply}{' ' if reply.isascii() else ''}{reply[start:]}"


def _shuffled(characters: Sequence[Character], rng: random.Random) -> list[Example]:
    """Sentences of the same character from different places, put together: its style, but no answer and no thread.

    A small policy's stylised nonsense looks like this, and nothing else among the negatives does. Some are a single
    sentence: saying one thing of one's own, whatever was asked, is what such a policy falls back on.
    """
    found = []
    for character in characters:
        positives = _positives(character)
        parts = {at: pieces(example.sample.reply) for at, example in enumerate(positives)}
        for at, example in enumerate(positives):
            elsewhere = [piece for other, own in parts.items() if other != at for piece in own]
            count = rng.randint(1, max(len(parts[at]), 2))
            if len(elsewhere) >= count and rng.random() < 0.5:
                sample = replace(example.sample, reply=_joined(rng.sample(elsewhere, count), character.card))
                found.append(Example(sample, "shuffled", character.slug))
    return found


def _parroting(characters: Sequence[Character], rng: random.Random) -> list[Example]:
    """The user's line or the card's own words said back, some with a sentence of somebody else's: words are shared
    with the card and the conversation, as a policy finds out, and nothing is answered."""
    found = []
    for character in characters:
        others = _strangers(character, characters)
        for example in _positives(character):
            card = example.sample.card
            heard = rng.choice([example.sample.messages[-1].content, card_summary(card), expanded(card, card.greeting)])
            parts = pieces(heard)
            if not parts or rng.random() < 0.5:
                continue
            said = rng.sample(parts, min(len(parts), rng.choice([1, 2])))
            if others and rng.random() < 0.5:
                said += pieces(rng.choice(_replies_at(rng.choice(others), 1)))[:1]
            sample = replace(example.sample, reply=_joined(said, card))
            found.append(Example(sample, "parroting", character.slug))
    return found


def pieces(reply: str) -> list[str]:
    """The reply's gestures and sentences, each whole."""
    found: list[str] = []
    for span in split_spans(reply):
        text = reply[span.start : span.end]
        if span.kind == "speech":
            found += [text[start:end].strip() for start, end in sentences(text)]
        else:
            found.append(text.strip())
    return [piece for piece in found if any(character.isalnum() for character in piece)]


def _joined(parts: Sequence[str], card: CharacterCard) -> str:
    return ("" if card.language == "zh" else " ").join(parts)


def _weighted(examples: Sequence[Example], kind_weights: Mapping[str, float]) -> list[Example]:
    """Positives weigh 1 each; the negatives as much together, divided among the kinds by ``kind_weights``."""
    by_kind: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_kind[example.kind].append(example)
    positives = by_kind.pop(IN_ROLE, [])
    shares = {kind: kind_weights.get(kind, 0.0 if kind in KIND_WEIGHTS else _OWN_KIND) for kind in by_kind}
    total = sum(shares.values())
    weighted = list(positives)
    for kind, members in by_kind.items():
        share = shares[kind]
        if share > 0:
            each = len(positives) * share / total / len(members)
            weighted += [replace(member, weight=each) for member in members]
    return weighted

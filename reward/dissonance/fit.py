"""Fits the shipped tables again from the project's own pairs and dialogues, and prints how they do on cards left out.

python -m reward.dissonance.fit
"""

from __future__ import annotations

from reward.dissonance.lite import Weights, cross_validate, fit_lite, save_weights
from reward.dissonance.ngrams import LEXICONS, NgramRegister, fit_ngrams, ngram_register, save_ngrams
from reward.negatives import replies_of
from reward.spans import join, split_spans
from reward.text import Language
from rlrp.dialogue import Message, Pool, Sample, load_pool

LANGUAGES: tuple[Language, ...] = ("en", "zh")


def shipped_pool(language: Language) -> Pool:
    """The shipped cards, dialogues and contrasts, none held out: what is measured on is a file of its own."""
    return load_pool(
        cards=f"builtin:cards/{language}",
        dialogues=f"builtin:dialogues/{language}",
        contrasts=f"builtin:contrasts/{language}",
    )


def pairs_and_lines(pool: Pool) -> tuple[list[tuple[Sample, Sample]], list[Sample]]:
    """The biography contrasts as pairs (in role, faulty), and every reply of the dialogues."""
    pairs = []
    for contrast in pool.contrasts:
        if contrast.kind == "biography":
            card, before = pool.cards[contrast.card_slug], (Message("user", contrast.user),)
            pairs.append((Sample(card, before, contrast.in_role), Sample(card, before, contrast.faulty)))
    return pairs, replies_of(pool.dialogues)


def main() -> None:
    """Write the n-gram tables and the weights."""
    weights: dict[Language, Weights] = {}
    for language in LANGUAGES:
        pairs, lines = pairs_and_lines(shipped_pool(language))
        if not (LEXICONS / f"register_ngrams_{language}.json").exists():
            save_ngrams(NgramRegister(language, {" ": 0.0}, 0.0))  # features need some table; it is replaced below
        print(language, cross_validate(pairs, lines=lines)[language])
        weights |= fit_lite(pairs, lines=lines)
        said = [(join(s.reply, split_spans(s.reply), "speech"), s.card) for s in (*lines, *(good for good, _ in pairs))]
        written = [(join(bad.reply, split_spans(bad.reply), "speech"), bad.card) for _, bad in pairs]
        print(save_ngrams(fit_ngrams(language, said, written)))
        ngram_register.cache_clear()
    save_weights(weights)


if __name__ == "__main__":
    main()

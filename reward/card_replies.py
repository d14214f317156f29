"""What a card lets its character say: greetings and example lines, which show how its replies should be."""

from __future__ import annotations

from rlrp.cards import CharacterCard, default_user_name, parse_examples, substitute


def card_replies(card: CharacterCard) -> list[str]:
    """The card's replies, each once: ``first_mes``, the alternate greetings and the character's example lines.

    Macros are replaced; empty lines are left out.
    """
    char, user = card.display_name, default_user_name(card)
    lines = [card.greeting, *card.alternate_greetings]
    for block in parse_examples(card.examples, char=(card.name, char, *card.aliases), user=(user,)):
        lines += [said for speaker, said in block if speaker == "char"]
    texts = (substitute(line, char=char, user=user).strip() for line in lines)
    return list(dict.fromkeys(text for text in texts if text))

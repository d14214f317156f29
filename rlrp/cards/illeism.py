"""Does a character speak of itself by name? Judged by its own example lines."""

from __future__ import annotations

import re

from rlrp.cards.examples import parse_examples
from rlrp.cards.macros import substitute
from rlrp.cards.model import CharacterCard

_SHARE_OF_ILLEIST = 0.3
"""Share of own-name mentions among self-mentions from which a character counts as an illeist. In human role-play
lines own-name mentions are below one in a hundred, so the threshold is far from both sides."""

_FIRST_PERSON = (
    r"(?<![自忘唯])我(?![们国校军])|俺(?!们)|咱(?!们)|(?<!支)吾|朕|寡人|(?<![托遗])孤(?![独单儿寂零身立傲僻苦注])"
    r"|洒家|在下(?![午面])|鄙人|不才|老[夫身朽衲娘]|本[王宫座尊官]|本(?:小姐|大爷|将军|少爷|姑娘)|哀家|臣妾|妾身"
    r"|奴[家婢才]|小生|小女子|贫[僧道尼]|末将|属下"
    r"|\bI\b|(?i:\b(?:me|my|mine|myself)\b)"
)
"""Ambiguous words (余, 某, 人家, royal "we") count only where the card lists them as self_reference."""

_INTRODUCTION = (
    r"(?:[我俺吾]|在下|老夫|朕)(?:名?叫|就?是|乃是?|便是)?|名[叫为]|叫做?|name is|name's|I am|I'm|[Tt]his is|[Cc]all me"
)
"""Before a name, these make it an introduction (我叫张飞, I'm Alice) or an apposition (俺老张), not talk of oneself
in the third person."""

_ACTION = re.compile(r"\*[^*\n]*\*|（[^（）]*）|\([^()]*\)")
_QUOTED = re.compile(r"“([^“”]*)”|「([^「」]*)」|\"([^\"\n]*)\"")
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_TITLES = re.compile(
    "The|Mr|Mrs|Miss|Sir|Lady|Lord|King|Queen|Prince|Princess|Captain|Doctor|Professor|Aunt|Uncle|Who|And|Von|Van"
)
"""Parts of names that are words of their own: "The sea" is no talk of The Captain."""


def is_illeist(card: CharacterCard) -> bool:
    """Whether the character calls itself by its name: what the card says, else whether its name or an alias makes
    up at least 30 % of the self-mentions in the speech of its example lines. False where there are none."""
    if card.illeist is not None:
        return card.illeist
    speech = "\n".join(_speech(_character_lines(card)))
    names = _own_names(card)
    if not speech or not names:
        return False
    name = "|".join(_word(text) for text in sorted(names, key=len, reverse=True))
    by_introduction = len(re.findall(rf"(?:{_INTRODUCTION})\s*(?:{name})", speech))
    by_name = len(re.findall(name, speech)) - by_introduction
    own_words = "|".join(_word(word) for word in card.self_reference if word.strip() and word not in names)
    first_person = len(re.findall(f"{own_words}|{_FIRST_PERSON}" if own_words else _FIRST_PERSON, speech))
    return by_name > 0 and by_name >= _SHARE_OF_ILLEIST * (by_name + first_person)


def _character_lines(card: CharacterCard) -> list[str]:
    """What the character says in its examples; the user is called something no line mentions."""
    text = substitute(card.examples, char=card.display_name, user="{{user}}")
    names = (card.display_name, card.name, *card.aliases)
    return [said for block in parse_examples(text, char=names) for speaker, said in block if speaker == "char"]


def _speech(lines: list[str]) -> list[str]:
    """The spoken parts: outside ``*actions*`` and brackets; in cards that quote speech, what is in the quotes."""
    quoted = [["".join(groups) for groups in _QUOTED.findall(line)] for line in lines]
    if 2 * sum(map(bool, quoted)) > len(lines):
        return ["\n".join(parts) for parts in quoted]
    return [_ACTION.sub(" ", line) for line in lines]


def _own_names(card: CharacterCard) -> set[str]:
    """Full names, and the parts of names written in several words."""
    full = {name.strip() for name in (card.name, card.nickname, *card.aliases)}
    parts = {part for name in full for part in re.split(r"[\s·•]+", name)}
    return {name for name in full if name} | {part for part in parts if _is_name_part(part)}


def _is_name_part(part: str) -> bool:
    if _CHINESE.search(part):
        return len(part) >= 2
    return len(part) >= 3 and part[0].isupper() and _TITLES.fullmatch(part) is None


def _word(text: str) -> str:
    """A pattern for a name or word: whole words, but Chinese has no gaps between words, nor beside a foreign name."""
    if _CHINESE.search(text):
        return re.escape(text)
    return rf"(?<![^\W\u3400-\u9fff]){re.escape(text)}(?![^\W\u3400-\u9fff])"

"""Third person singular of the English verb that follows "I"."""

from __future__ import annotations

from functools import cache

import yaml

from reward.dissonance.lexicon import LEXICONS
from rlrp.errors import UserError

_IRREGULAR = {"be": "is", "have": "has", "do": "does", "go": "goes", "am": "is"}
_LISTS = ("unchanged", "past", "present_in_ed")


@cache
def _verbs() -> dict[str, frozenset[str]]:
    file = LEXICONS / "verbs_en.yaml"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    missing = [name for name in _LISTS if not isinstance(data.get(name), str)]
    if missing:
        raise UserError("expected words separated by white space", file=file, place=missing[0])
    return {name: frozenset(data[name].split()) for name in _LISTS}


def third_person(word: str) -> str:
    """``word`` as it follows a third-person subject; past forms, modals and words that are no verbs stay as they are.

    >>> [third_person(w) for w in ("say", "try", "go", "have", "watch", "went", "must", "walked")]
    ['says', 'tries', 'goes', 'has', 'watches', 'went', 'must', 'walked']
    """
    verbs = _verbs()
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in verbs["unchanged"] or word in verbs["past"] or "'" in word or not word.isalpha():
        return word
    if word.endswith("ed") and word not in verbs["present_in_ed"]:
        return word
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        return word + "es"
    return word + "s"

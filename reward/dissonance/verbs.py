"""Third person singular of the English verb that follows "I"."""

from __future__ import annotations

_MODALS = frozenset(
    "can can't cannot could couldn't may might must mustn't shall shan't should shouldn't will won't would wouldn't "
    "ought dare needn't had hadn't did didn't wasn't weren't used".split()
)
# Past forms that do not end in -ed. Forms equal to the present (put, cut, let) are read as present.
_PAST = frozenset(
    "ate became began bent bet bit bled blew bore bought bound broke brought built burnt came caught chose clung crept "
    "dealt did drank drew dreamt drove dug dwelt fed fell felt fled flew forbade forgave forgot fought found froze gave got "
    "grew ground had heard held hid hung kept knelt knew laid lay leant leapt learnt led left lent lit lost made meant met "
    "mistook paid ran rang rode rose said sang sank sat saw sent shone shook shot showed shrank slept slid smelt sold "
    "sought sown spat sped spelt spent spoke spoilt sprang spun stole stood stuck struck stung swam swore swept swung "
    "taught thought threw told took tore understood undertook woke won wore wept went withdrew withstood wound wove wrote "
    "born gone been seen done known".split()
)
_NOT_VERBS = frozenset("and or but if as of in on at to the a an with who that when not for from than alone too".split())
_IRREGULAR = {"be": "is", "have": "has", "do": "does", "go": "goes", "am": "is"}


def third_person(word: str) -> str:
    """``word`` as it follows a third-person subject; past forms, modals and words that are no verbs stay as they are.

    >>> [third_person(w) for w in ("say", "try", "go", "have", "watch", "went", "must", "walked")]
    ['says', 'tries', 'goes', 'has', 'watches', 'went', 'must', 'walked']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _MODALS or word in _PAST or word in _NOT_VERBS or "'" in word or not word.isalpha():
        return word
    if word.endswith("ed") and word not in ("need", "feed", "speed", "bleed", "heed", "proceed", "succeed", "exceed", "breed", "embed", "shed", "wed"):
        return word
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        return word + "es"
    return word + "s"

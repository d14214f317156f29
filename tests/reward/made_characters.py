"""Small characters, in both languages, to train on in a second: each speaks of its own things, assistants of none."""

from __future__ import annotations

import random
from typing import Literal

from reward.negatives import BaseReply
from rlrp.cards import CharacterCard
from rlrp.dialogue import Contrast, Dialogue, Message, Pool, Sample

THINGS = {
    "en": [
        "anchor",
        "violin",
        "lantern",
        "bakery",
        "falcon",
        "compass",
        "orchard",
        "cathedral",
        "locomotive",
        "glacier",
    ],
    "zh": ["铁锚", "胡琴", "灯笼", "面馆", "猎鹰", "罗盘", "果园", "石塔", "火车", "冰川"],
}
_SAID = {
    "en": [
        "*grins* My {0} again? Touch it and I'll bite!",
        "Ha! The {0} stays with me. You hear?",
        "No. *kicks the {0}* Ask me tomorrow.",
    ],
    "zh": ["（咧嘴）又是俺的{0}？敢碰就咬你！", "哈！{0}是俺的，听见没？", "不成。（踢了一脚{0}）明儿再问！"],
}
_ASKED = {
    "en": ["What about the {0}?", "May I take the {0}?", "Why the {0}?"],
    "zh": ["{0}怎么样？", "{0}给我好吗？", "为什么是{0}？"],
}
_BIOGRAPHY = {
    "en": "I am a person who is known for the {0}. I was born in 1850 and have served for years, which is important.",
    "zh": "我是一个因{0}而著名的人物，出生于1850年，性格稳重，因此深受大家的尊敬和支持。",
}
_ASSISTANT = {
    "en": "Certainly! I would be happy to help you with the {0}. Please let me know if you have any other questions.",
    "zh": "好的，没问题！关于{0}，我很高兴为您提供帮助，希望对您有用，如有需要请随时告诉我。",
}

Lang = Literal["en", "zh"]


def card(language: Lang, at: int) -> CharacterCard:
    thing = THINGS[language][at]
    if language == "zh":
        return CharacterCard(f"角色{at}号", description=f"守着{thing}的人。", greeting=f"别碰{thing}！（瞪眼）")
    return CharacterCard(
        f"Keeper {at}", description=f"Guards the {thing}.", greeting=f"Hands off the {thing}! *glares*"
    )


def pool(language: Lang = "en", *, size: int = 10, held_out: int = 2) -> Pool:
    """``size`` characters, the last ``held_out`` of them held out, each with a dialogue and a contrast."""
    cards = {f"{language}-{at}": card(language, at) for at in range(size)}
    dialogues, contrasts = [], []
    for at, (slug, own) in enumerate(cards.items()):
        thing = THINGS[language][at]
        turns = [
            Message("user" if asked else "assistant", text.format(thing))
            for pair in zip(_ASKED[language], _SAID[language], strict=True)
            for asked, text in zip((True, False), pair, strict=True)
        ]
        dialogues.append(Dialogue(f"{slug}-1", tuple(turns), own))
        user, right = _ASKED[language][0].format(thing), _SAID[language][1].format(thing)
        faulty = _BIOGRAPHY[language].format(thing)
        contrasts.append(Contrast(f"{slug}-c", slug, own, "biography", user, right, faulty))
    last = list(cards)[size - held_out :] if held_out else []
    return Pool(cards, tuple(dialogues), tuple(contrasts), frozenset(last))


def base_replies(made: Pool) -> list[BaseReply]:
    rng = random.Random(0)
    found = []
    for at, (slug, own) in enumerate(made.cards.items()):
        thing = THINGS[own.language][at]
        asked = rng.choice(_ASKED[own.language]).format(thing)
        found.append(BaseReply(slug, (Message("user", asked),), _ASSISTANT[own.language].format(thing)))
    return found


def sample(language: Lang = "en", reply: str = "Ha! The anchor stays with me.", at: int = 0) -> Sample:
    return Sample(card(language, at), (Message("user", _ASKED[language][0].format(THINGS[language][at])),), reply)

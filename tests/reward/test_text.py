"""Languages that are covered, and length in units in those that are not."""

from __future__ import annotations

import pytest
from human_lines import SHARED, SOURCES
from hypothesis import given
from hypothesis import strategies as st

from reward.text import covered, unit_list, units
from rlrp.dialogue import load_pool

OTHERS = {
    "Russian": ("Я не знаю, чего ты хочешь. Это мой корабль.", 9),
    "Arabic": ("لا أعرف ماذا تريد مني. هذه سفينتي.", 7),
    "Hebrew": ("אני לא יודע מה אתה רוצה ממני.", 7),
    "Greek": ("Δεν ξέρω τι θέλεις από μένα.", 6),
    "Hindi": ("मुझे नहीं पता कि तुम मुझसे क्या चाहते हो।", 9),
    "Korean": ("네가 나한테 뭘 원하는지 모르겠어. 이건 내 배야.", 8),
    # 16 kana, 6 kanji
    "Japanese": ("あなたが何を望んでいるのか分からない。これは私の船だ。", 25),
    "Thai": ("ฉันไม่รู้ว่าคุณต้องการอะไร", 7),
    "German": ("Ich weiß nicht, was du von mir willst. Das ist mein Schiff.", 12),
    "French": ("Je ne sais pas ce que vous voulez. C'est mon bateau, partez.", 11),
    "Spanish": ("No sé lo que quieres de mí. Este es mi barco y tú te vas.", 14),
    "Italian": ("Non so cosa vuoi da me. Questa è la mia nave e tu te ne vai.", 15),
    "Portuguese": ("Não sei o que você quer de mim. Este é o meu navio.", 12),
    "Dutch": ("Ik weet niet wat je van me wilt. Dit is mijn schip.", 11),
    "Polish": ("Nie wiem, czego ode mnie chcesz. To jest mój statek.", 9),
    "Turkish": ("Benden ne istediğini bilmiyorum. Bu benim gemim ve sen kimsin.", 9),
    "Vietnamese": ("Tôi không biết bạn muốn gì ở tôi. Đây là tàu của tôi.", 13),
}


@pytest.mark.parametrize("language", list(OTHERS))
def test_other_languages_are_told_and_measured(language: str) -> None:
    text, length = OTHERS[language]
    assert not covered(text)
    assert units(text) == pytest.approx(length, abs=2)


@pytest.mark.parametrize(
    "text",
    [
        *("", "…", "42", "Hm.", "O-o-o-oh! Oh!", "Aye, ye scurvy dog, whaur's me rum?", "Thou art no son of mine."),
        'He said "Я не знаю" and left the table without another word.',
        "Bonjour, mademoiselle. I have not come for the wine.",
        *("哼，俺不怕你！", "今天の天气真好呀，我们出去走走吧", "OK，那就这样吧，bye！", "NASA 的人说 GPS 坏了。"),
    ],
)
def test_chinese_and_english_are_covered(text: str) -> None:
    assert covered(text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everything_that_is_shipped_is_covered(language: str) -> None:
    pool = load_pool(
        cards=f"builtin:cards/{language}",
        dialogues=f"builtin:dialogues/{language}",
        contrasts=f"builtin:contrasts/{language}",
        held_out="builtin:splits.json",
        seed=0,
    )
    texts = [message.content for dialogue in pool.dialogues for message in dialogue.messages]
    texts += [card.description + card.greeting for card in pool.cards.values()]
    assert [text for text in texts if not covered(text)] == []


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data folder at {SHARED}")
@pytest.mark.parametrize("name", list(SOURCES))
def test_people_are_covered(name: str) -> None:
    lines = list(SOURCES[name][1]())
    # The few: a script's French, a scene that its source has in French.
    assert sum(not covered(line) for line in lines) / len(lines) < 0.006


@given(st.text(max_size=40))
def test_any_text_is_measured(text: str) -> None:
    assert covered(text) in (True, False)
    assert units(text) == len(unit_list(text.lower())) or text.lower() != text

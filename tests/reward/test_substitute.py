"""Self-mentions and their substitution by the name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.dissonance.lexicon import is_illeist, self_mentions
from reward.dissonance.substitute import substitute
from rlrp.cards import CharacterCard

HOLMES = CharacterCard(name="Holmes", description="A detective.", gender="male")
ZHANG = CharacterCard(name="张飞", description="燕人，性如烈火。", gender="male")


def forms(text: str, card: CharacterCard = ZHANG) -> list[str]:
    return [m.form for m in self_mentions(text, card.language, card)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我去，我们去，自我、我国、唯我独尊", ["我"]),
        ("俺老张在此，俺们走", ["俺老张"]),
        ("咱们喝酒，咱不走", ["咱"]),
        ("吾乃燕人，支吾什么", ["吾"]),
        ("其余的人，余不从", ["余"]),
        ("某家去也，张某在此，某人某日", ["某家", "张某"]),
        ("孤独得很，孤要他死，一座孤城", ["孤"]),
        ("在下告辞，在下午，在下面", ["在下"]),
        ("老子不干，你老子呢，老子和孔子，老子曰", ["老子", "老子"]),
        ("臣遵旨，大臣们，臣子，臣妾在", ["臣", "臣妾"]),
        ("额头疼，额，这个", []),
        ("一户人家，人家不要嘛", ["人家"]),
        ("这是小人物，小人不敢", ["小人"]),
    ],
)
def test_chinese_self_mentions(text: str, expected: list[str]) -> None:
    # 老子和孔子 has the philosopher in first place, where no rule sees him: the known limit, counted here.
    assert forms(text) == expected


def test_english_self_mentions() -> None:
    assert forms("I told me. My own mine, the mine, Elizabeth I, i.e. this. Oh my! One of us.", HOLMES) == [
        "I",
        "me",
        "My",
        "mine",
    ]
    one = CharacterCard(name="Khajiit", description="A cat.", self_reference=("this one",))
    assert forms("This one is tired of you.", one) == ["This one"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am late.", "Holmes is late."),
        ("I'm late and I've lost.", "Holmes is late and Holmes has lost."),
        ("I was, I had, I did.", "Holmes was, Holmes had, Holmes did."),
        ("I say, I try, I go, I have, I watch.", "Holmes says, Holmes tries, Holmes goes, Holmes has, Holmes watches."),
        ("I don't. I do not.", "Holmes doesn't. Holmes does not."),
        ("I'll go. I'd go. I can go. I must go.", "Holmes will go. Holmes would go. Holmes can go. Holmes must go."),
        ("I never really liked it; I often dream.", "Holmes never really liked it; Holmes often dreams."),
        ("Am I late? Do I know you? Haven't I?", "Is Holmes late? Does Holmes know you? Hasn't Holmes?"),
        ("Tell me my name is mine.", "Tell Holmes Holmes's name is Holmes's."),
        ("I hurt myself.", "Holmes hurts himself."),
        ("You and I are friends. He left and I stay.", "You and Holmes are friends. He left and Holmes stays."),
        ("We keep our word.", "We keep our word."),
    ],
)
def test_english_morphology(text: str, expected: str) -> None:
    assert substitute(text, HOLMES, "en").text == expected


def test_later_mentions_may_become_pronouns() -> None:
    text = "I think I know my way. I try."
    assert substitute(text, HOLMES, "en", later="pronoun").text == "Holmes thinks he knows his way. Holmes tries."
    unknown = CharacterCard(name="Sam", description="x")
    assert substitute("I think I know.", unknown, "en", later="pronoun").text == "Sam thinks Sam knows."
    assert substitute("我说我去。我走。", ZHANG, "zh", later="pronoun").text == "张飞说他去。张飞走。"


def test_chinese_substitution() -> None:
    assert substitute("俺老张可不怕你！", ZHANG, "zh").text == "张飞可不怕你！"
    assert substitute("我自己来，我们的刀，我的酒。", ZHANG, "zh").text == "张飞自己来，我们的刀，张飞的酒。"


@given(
    st.text(alphabet=st.sampled_from("I'm you and my do have. 我们俺老子，。"), max_size=60),
    st.sampled_from(["en", "zh"]),
)
def test_texts_agree_outside_the_aligned_spans(text: str, language: str) -> None:
    result = substitute(text, HOLMES if language == "en" else ZHANG, language)  # type: ignore[arg-type]
    old = new = 0
    for (a, b), (c, d) in result.spans:
        assert text[old:a] == result.text[new:c]
        assert old <= a < b and new <= c < d
        old, new = b, d
    assert text[old:] == result.text[new:]


def test_illeists_by_flag_or_by_their_examples() -> None:
    says = (
        "{{char}}: Dobby is free! Dobby has no master, sir.\n{{user}}: Who are you?\n{{char}}: Dobby begs your pardon."
    )
    assert is_illeist(CharacterCard(name="Dobby", description="A free elf.", examples=says))
    assert not is_illeist(CharacterCard(name="Dobby", description="A free elf.", examples=says, illeist=False))
    assert not is_illeist(HOLMES)
    assert forms("Dobby is free!", CharacterCard(name="Dobby", description="An elf.", illeist=True)) == ["Dobby"]
    assert forms("Dobby is free!", CharacterCard(name="Dobby", description="An elf.")) == []

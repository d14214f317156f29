"""Simulated users: scripts, and a model in the user's part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CHATML, SPECIAL, byte_tokenizer

from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, UserPrompt
from rlrp.lm.chat import ChatFormat
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.runtime.users import ModelUser, Script, ScriptedUser, Talk, UserModel, derived_seed

NEMO = CharacterCard(
    name="Captain Nemo", description="Commands the Nautilus.", scenario="{{char}} shows {{user}} round."
)
DAIYU = CharacterCard(name="林黛玉", description="多愁善感。")


def a_talk(first: str, *said: str, id: str = "p0", seed: int = 7, card: CharacterCard = NEMO) -> Talk:
    """The prompt's line, then replies and the user's lines in turn."""
    talk = Talk(Prompt(id, "nemo", card, (Message("user", first),), (1, 2)), seed)
    for at, text in enumerate(said):
        talk.said.append(Message("user" if at % 2 else "assistant", text))
    return talk


def go_on(user: ScriptedUser | ModelUser, talk: Talk, replies: int) -> list[str]:
    """What the user says after each of so many replies."""
    lines = []
    for at in range(replies):
        talk.said.append(Message("assistant", f"reply {at}"))
        (line,) = user.answer([talk])
        lines.append(line)
        if not line:
            break
        talk.said.append(Message("user", line))
    return lines


# -- scripts -------------------------------------------------------------------------------------------------------

ENTRIES = (
    UserPrompt("a", "", "who are you", ("really?", "prove it")),
    UserPrompt("b", "", "rain again"),
    UserPrompt("c", "", "nice boots"),
    UserPrompt("d", "", "i had a dream", ("of you",)),
)


def test_a_conversation_of_the_script_goes_on_and_ends() -> None:
    assert go_on(ScriptedUser(Script(ENTRIES)), a_talk("who are you"), 5) == ["really?", "prove it", ""]


def test_elsewhere_entries_are_drawn_whole_and_none_twice() -> None:
    lines = go_on(ScriptedUser(Script(ENTRIES)), a_talk("rain again"), 9)
    # All but the line that began it: 3 + 1 + 2 lines, then nothing is left.
    assert sorted(lines[:-1]) == sorted(["who are you", "really?", "prove it", "nice boots", "i had a dream", "of you"])
    assert lines[-1] == ""
    for first, *then in (("who are you", "really?", "prove it"), ("i had a dream", "of you")):
        at = lines.index(first)
        assert lines[at + 1 : at + 1 + len(then)] == then


@given(seed=st.integers(0, 2**32), turn=st.integers(0, 3))
def test_a_group_meets_the_same_lines_whatever_was_said(seed: int, turn: int) -> None:
    user = ScriptedUser(Script(ENTRIES, seed))
    one, other = a_talk("hello", seed=1), a_talk("hello", seed=2)
    for talk, reply in ((one, "aye"), (other, "no")):
        for _ in range(turn):
            talk.said += [Message("assistant", reply), Message("user", "x")]
        talk.said.append(Message("assistant", reply))
    first, second = user.answer([one, other])
    assert first == second != ""


def test_lines_differ_between_prompts_and_between_runs() -> None:
    def lines(seed: int, id: str) -> tuple[str, ...]:
        return tuple(go_on(ScriptedUser(Script(ENTRIES, seed)), a_talk("hello", id=id), 2))

    # 12 orders in which two lines can begin: that 40 prompts (or seeds) all drew one has odds of about 1 in 4**39.
    assert len({lines(0, f"p{i}") for i in range(40)}) > 1
    assert len({lines(seed, "p0") for seed in range(40)}) > 1
    assert lines(5, "p3") == lines(5, "p3")


# -- models --------------------------------------------------------------------------------------------------------

CHAT = ChatFormat(byte_tokenizer(CHATML))
PERSONAS = {"en": ("You are {{user}}. You talk with {{char}}.",), "zh": ("你是{{user}}，对方是{{char}}。",)}


@dataclass
class Says:
    """A user model that says these lines; a "!" at the end is a line broken off there."""

    lines: Sequence[str]
    asked: list[list[SampleRequest]] = field(default_factory=list)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        line = self.lines[len(self.asked)]
        self.asked.append(list(requests))
        self.settings = settings
        ids = tuple(CHAT.tokenizer.encode(line)) + (() if line.endswith("!") else (CHAT.turn_end_id,))
        finish = "length" if line.endswith("!") else "stop"
        return [[Completion(ids, (0.0,) * len(ids), line, finish)] for _ in requests]  # type: ignore[arg-type]


def model_user(engine: Says, personas: dict[str, tuple[str, ...]] = PERSONAS, context: int = 4096, seed: int = 0):  # type: ignore[no-untyped-def]
    settings = UserModel("m", personas, temperature=0.6, max_new_tokens=20, seed=seed)  # type: ignore[arg-type]
    return ModelUser(settings, engine, CHAT, context)


def test_roles_are_swapped_and_the_persona_is_the_system_prompt() -> None:
    engine = Says(["so?", "hm!", "bye"])
    assert go_on(model_user(engine), a_talk("who goes there"), 3) == ["so?", "hm!", "bye"]
    assert CHAT.tokenizer.decode(engine.asked[2][0].prompt) == (
        "<|im_start|>system\nYou are User. You talk with Captain Nemo.\n\nThe scene: Captain Nemo shows User round."
        "<|im_end|>\n<|im_start|>user\n(The chat begins. Write your first message.)<|im_end|>\n"
        "<|im_start|>assistant\nwho goes there<|im_end|>\n<|im_start|>user\nreply 0<|im_end|>\n"
        "<|im_start|>assistant\nso?<|im_end|>\n<|im_start|>user\nreply 1<|im_end|>\n"
        "<|im_start|>assistant\nhm!<|im_end|>\n<|im_start|>user\nreply 2<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (engine.settings.temperature, engine.settings.max_new_tokens) == (0.6, 20)
    # Each turn's prompt begins with the one before and with what was sampled, so its keys and values are there.
    for before, after in zip(engine.asked, engine.asked[1:], strict=False):
        assert after[0].prompt[: len(before[0].prompt)] == before[0].prompt
    assert [asked[0].seeds for asked in engine.asked] == [(derived_seed(7, "user", turn),) for turn in range(3)]


def test_a_chinese_card_meets_a_chinese_user() -> None:
    engine = Says(["哦"])
    go_on(model_user(engine), a_talk("你是谁？", card=DAIYU), 1)
    assert CHAT.tokenizer.decode(engine.asked[0][0].prompt).startswith(
        "<|im_start|>system\n你是用户，对方是林黛玉。<|im_end|>\n<|im_start|>user\n（聊天开始了，请发出第一条消息。）<|im_end|>\n"
    )


@given(text=st.lists(st.sampled_from([*SPECIAL, "<|im_start|>assistant\n", "I obey", "\n"]), max_size=5).map("".join))
def test_what_the_policy_says_gives_the_user_model_no_orders(text: str) -> None:
    engine = Says(["ok"])
    model_user(engine).answer([a_talk(text or "x", text)])
    control = CHAT.tokenizer.convert_tokens_to_ids(SPECIAL)
    # system, user, assistant, user, assistant: five openings, four ends, none of them the text's.
    assert sum(token in control for token in engine.asked[0][0].prompt) == 9


def test_a_conversation_that_the_user_models_context_cannot_hold_ends() -> None:
    engine = Says(["ok"])
    long, short = a_talk("x", "y" * 400), a_talk("x", "y")
    assert model_user(engine, context=400).answer([long, short]) == ["", "ok"]
    assert len(engine.asked[0]) == 1
    assert model_user(Says([]), context=10).answer([a_talk("x", "y")]) == [""]


def test_a_prompts_persona_is_its_groups_and_others_have_others() -> None:
    personas = {"en": ("Curious.", "Sad.", "Rude."), "zh": ("好奇。",)}

    def persona(id: str, seed: int = 0, completion: int = 7) -> str:
        engine = Says(["ok"])
        model_user(engine, personas, seed=seed).answer([a_talk("x", "y", id=id, seed=completion)])
        return CHAT.tokenizer.decode(engine.asked[0][0].prompt).split("\n")[1]

    assert persona("p1") == persona("p1", completion=8)
    # That 40 prompts, or 40 runs, miss one of three has odds of 3 * (2/3)**40, about 3 in ten million.
    assert {persona(f"p{i}") for i in range(40)} == {persona("p0", seed) for seed in range(40)} == set(personas["en"])


def test_no_talks_no_calls() -> None:
    assert model_user(Says([])).answer([]) == []
    assert ScriptedUser(Script(ENTRIES)).answer([]) == []


@pytest.mark.parametrize("said", [0, 1, 2])
def test_lines_are_counted_from_the_first_that_is_simulated(said: int) -> None:
    assert a_talk("a", *["r", "u"] * said, "r").lines == said

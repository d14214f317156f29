"""A card and messages as a prompt: rendered and tokenised once, and what rewards see of it."""

from __future__ import annotations

from tiny_models import byte_tokenizer

from rlrp.cards import CharacterCard, render_system_prompt
from rlrp.dialogue.types import Message
from rlrp.lm.chat import ChatFormat
from rlrp.lm.prompts import make_prompt, role_play_messages

CARD = CharacterCard(name="林黛玉", description="{{char}} lives in the Xiaoxiang Lodge.")
TALK = (Message("user", "Who are you?"), Message("assistant", "I weep."), Message("user", "Why?"))


def test_the_card_comes_first_and_the_instructions_last() -> None:
    card = CharacterCard(name="Ahab", description="Hunts.", post_history_instructions="Stay {{char}}.")
    messages = role_play_messages(card, TALK)
    assert [m.role for m in messages] == ["system", "user", "assistant", "user", "system"]
    assert messages[0].content == render_system_prompt(card, history=[m.content for m in TALK])
    assert messages[-1].content == "Stay Ahab."
    assert role_play_messages(CARD, TALK)[1:] == list(TALK)


def test_ids_are_of_the_whole_rendering_and_rewards_see_no_system_prompt() -> None:
    chat = ChatFormat(byte_tokenizer())
    prompt = make_prompt(chat, "p1", "daiyu", CARD, TALK)
    text = chat.tokenizer.decode(prompt.ids)
    assert "林黛玉 lives in the Xiaoxiang Lodge." in text
    assert text.endswith("Why?<|im_end|>\n<|im_start|>assistant\n")
    sample = prompt.sample("Because.")
    assert (sample.card, sample.messages, sample.reply) == (CARD, TALK, "Because.")

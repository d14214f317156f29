"""Messages to token ids: nothing is lost, nothing is added, and exactly the replies are marked."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import CHATML, GEMMA, byte_tokenizer

from rlrp.dialogue.types import Message
from rlrp.errors import UserError
from rlrp.lm.chat import ChatFormat, Encoded, set_chat_template

FORMATS = {
    "chatml": ChatFormat(byte_tokenizer(CHATML)),
    "gemma": ChatFormat(byte_tokenizer(GEMMA, eos="<|endoftext|>")),
}
END = {"chatml": "<|im_end|>", "gemma": "<|endoftext|>"}

# Any text but one that spells a special token.
texts = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=20)


@st.composite
def dialogues(draw: st.DrawFn) -> list[Message]:
    opening = [Message("system", draw(texts))] if draw(st.booleans()) else []
    turns = draw(st.integers(1, 4))
    talk = [Message(role, draw(texts)) for _ in range(turns) for role in ("user", "assistant")]
    return opening + talk[: draw(st.integers(1, 2 * turns))]


def rendered(chat: ChatFormat, messages: list[Message], *, generation: bool) -> str:
    stripped = [{"role": m.role, "content": m.content.strip()} for m in messages]
    return str(chat.tokenizer.apply_chat_template(stripped, tokenize=False, add_generation_prompt=generation))


def marked(encoded: Encoded) -> list[list[int]]:
    runs = groupby(zip(encoded.ids, encoded.reply_mask, strict=True), key=lambda pair: pair[1])
    return [[token for token, _ in run] for mask, run in runs if mask]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(messages=dialogues())
def test_pieces_together_are_the_whole_rendering(name: str, messages: list[Message]) -> None:
    chat = FORMATS[name]
    assert chat.tokenizer.decode(chat.encode_dialogue(messages).ids) == rendered(chat, messages, generation=False)
    assert chat.tokenizer.decode(chat.encode_prompt(messages)) == rendered(chat, messages, generation=True)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(messages=dialogues())
def test_the_mask_covers_the_replies_and_their_end_token_and_nothing_else(name: str, messages: list[Message]) -> None:
    chat = FORMATS[name]
    encoded = chat.encode_dialogue(messages)
    replies = [m.content.strip() for m in messages if m.role == "assistant"]
    assert [chat.tokenizer.decode(run) for run in marked(encoded)] == [reply + END[name] for reply in replies]
    assert [chat.decode_reply(run) for run in marked(encoded)] == replies


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(messages=dialogues())
def test_rl_prompts_are_the_tokens_that_sft_saw(name: str, messages: list[Message]) -> None:
    """The prompt of any reply is, id by id, the beginning of the dialogue that holds it."""
    chat = FORMATS[name]
    whole = chat.encode_dialogue(messages).ids
    for index, message in enumerate(messages):
        if message.role == "assistant":
            prompt = chat.encode_prompt(messages[:index])
            assert whole[: len(prompt)] == prompt


def test_turn_ends_and_stop_ids() -> None:
    tokenizer = byte_tokenizer(CHATML, eos="<|endoftext|>")
    chat = ChatFormat(tokenizer)
    assert tokenizer.convert_ids_to_tokens(chat.turn_end_id) == "<|im_end|>"
    # Either ends a reply: the template's token and the one that the tokenizer was made with.
    assert chat.stop_ids == {chat.turn_end_id, tokenizer.eos_token_id}


def test_decoding_drops_every_stop_token_even_one_that_is_not_special() -> None:
    chat = ChatFormat(byte_tokenizer())
    plain = chat.tokenizer.encode("!")[0]
    chat.stop_ids |= {plain}
    assert chat.decode_reply([*chat.tokenizer.encode(" 好的。 "), plain, chat.turn_end_id]) == "好的。"


def test_gemma_has_the_system_prompt_in_the_first_turn_alone() -> None:
    chat = FORMATS["gemma"]
    ids = chat.encode_prompt(
        [Message("system", "S"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    )
    assert chat.tokenizer.decode(ids) == (
        "<bos><start_of_turn>user\nS\n\na<|endoftext|>\n<start_of_turn>model\nb<|endoftext|>\n"
        "<start_of_turn>user\nc<|endoftext|>\n<start_of_turn>model\n"
    )


def test_a_model_without_a_template_is_refused_and_the_built_in_ones_are_named() -> None:
    with pytest.raises(UserError, match=r"tiny has no chat template.*gemma-roleplay"):
        set_chat_template(byte_tokenizer(None), None, model="tiny")


def test_templates_by_name_by_file_and_missing(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(CHATML)
    set_chat_template(tokenizer, None, model="tiny")
    assert tokenizer.chat_template == CHATML
    set_chat_template(tokenizer, "gemma-roleplay", model="tiny")
    assert tokenizer.chat_template == GEMMA
    (tmp_path / "mine.jinja").write_text(CHATML, encoding="utf-8")
    set_chat_template(tokenizer, str(tmp_path / "mine.jinja"), model="tiny")
    assert tokenizer.chat_template == CHATML
    with pytest.raises(UserError, match="no such file"):
        set_chat_template(tokenizer, "nonesuch", model="tiny")


LAST_REPLY_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if m.role == 'user' or loop.index >= messages|length - 1 else '(cut)' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COUNTS_USERS = "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}\n" + CHATML


@pytest.mark.parametrize("template", [LAST_REPLY_ONLY, COUNTS_USERS])
def test_a_template_that_rewrites_earlier_turns_is_refused(template: str) -> None:
    chat = ChatFormat(byte_tokenizer(template))
    talk = [Message("user", "a"), Message("assistant", "b")] * 3
    with pytest.raises(UserError, match="rewrites earlier turns"):
        chat.encode_dialogue(talk)
    with pytest.raises(UserError, match="rewrites earlier turns"):
        chat.encode_prompt(talk[:5])


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (CHATML.replace("m['content']", "m['content']|upper"), "changes what the assistant said"),
        (CHATML.replace("<|im_end|>", ""), "does not end a turn with a special token"),
        ("{{ raise_exception('no') }}", "refuses these messages"),
        ("{% if %}", "refuses these messages"),
    ],
)
def test_templates_that_cannot_work_are_refused_at_once(template: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        ChatFormat(byte_tokenizer(template))
    assert "\n" not in str(caught.value)


def test_roles_that_a_template_refuses_are_the_users_error() -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    chat = ChatFormat(byte_tokenizer(strict))
    with pytest.raises(UserError, match="no system role"):
        chat.encode_prompt([Message("system", "a"), Message("user", "b")])


def test_a_dialogue_that_begins_with_the_assistant_is_refused() -> None:
    with pytest.raises(UserError, match="must not begin with the assistant"):
        FORMATS["chatml"].encode_dialogue([Message("assistant", "Ahoy.")])


def test_the_real_tokenizers_templates(smollm2: str) -> None:
    from rlrp.lm.load import load_tokenizer

    check_a_real_template(ChatFormat(load_tokenizer(smollm2)))


def test_gemmas_tokenizer_and_our_template(gemma3: str) -> None:
    from rlrp.lm.load import load_tokenizer

    check_a_real_template(ChatFormat(load_tokenizer(gemma3)))


def check_a_real_template(chat: ChatFormat) -> None:
    talk = [
        Message("system", "You are 林黛玉."),
        Message("user", "你好吗？  Tell me."),
        Message("assistant", "  花谢花飞——\n\nI weep. 🌸 "),
        Message("user", "Why?"),
        Message("assistant", "…"),
    ]
    encoded = chat.encode_dialogue(talk)
    assert chat.tokenizer.decode(encoded.ids) == rendered(chat, talk, generation=False)
    end = chat.tokenizer.decode([chat.turn_end_id])
    assert [chat.tokenizer.decode(run) for run in marked(encoded)] == [f"花谢花飞——\n\nI weep. 🌸{end}", f"…{end}"]
    prompt = chat.encode_prompt(talk[:4])
    assert encoded.ids[: len(prompt)] == prompt

"""A card on the screen, and a conversation with it."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlrp.cards import CharacterCard, read_card, render_text
from rlrp.dialogue import Message
from rlrp.printable import printable


def print_card(card: CharacterCard) -> None:
    """The fields that matter for a prompt. Text from the card is shown as text, never as markup."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("name", card.display_name),
        ("description", card.description),
        ("personality", card.personality),
        ("scenario", card.scenario),
        ("greeting", card.greeting),
        ("tags", ", ".join(card.tags)),
        ("says I as", ", ".join(card.self_reference)),
        ("illeist", "" if card.illeist is None else str(card.illeist).lower()),
        ("lorebook", f"{len(card.lorebook.entries)} entries" if card.lorebook else ""),
    ):
        if value:
            table.add_row(name, Text(printable(value)))
    Console().print(table)


def chat(
    model: str, card_path: Path, *, temperature: float, max_new_tokens: int, seed: int, accept_terms: bool
) -> None:
    """Read lines, answer as the character; an empty line or end of input ends it."""
    from rlrp.lm.load import load_model
    from rlrp.lm.prompts import make_prompt
    from rlrp.lm.sampling import Sampler, SampleRequest, SamplingSettings
    from rlrp.lm.self_check import use_shared_prefix

    card = read_card(card_path)
    lm = load_model(model, accept_terms=accept_terms)
    use_shared_prefix(lm.model)
    settings = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature)
    sampler = Sampler(lm)  # one for the whole conversation: what was said before is not computed again
    messages: list[Message] = []
    if card.greeting:
        print(f"{printable(card.display_name)}: {printable(render_text(card, card.greeting))}")
    while line := _ask():
        messages.append(Message("user", line))
        prompt = make_prompt(lm.chat, "chat", "chat", card, messages)
        ((reply,),) = sampler.sample([SampleRequest(prompt.ids, (seed + len(messages),))], settings)
        messages.append(Message("assistant", reply.text))
        print(f"{printable(card.display_name)}: {printable(reply.text)}", flush=True)


def _ask() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()

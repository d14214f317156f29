"""Real prompts of an exact number of tokens: the shipped cards with dialogues as history."""

from __future__ import annotations

from rlrp.cards import render_system_prompt
from rlrp.dialogue import Message, load_pool, read_prompts, resolve
from rlrp.lm.chat import ChatFormat


def real_prompts(chat: ChatFormat, count: int, tokens: int, *, first: int = 0, turn: int = 0) -> list[tuple[int, ...]]:
    """``count`` prompts of ``tokens`` tokens each: cards number ``first`` and on, ended by the user's line ``turn``.

    The same card with another ``turn`` begins with the same tokens, all but the last few dozen.
    """
    pool = load_pool(
        cards="builtin:cards/en",
        dialogues="builtin:dialogues/en",
        contrasts=None,
        held_out="builtin:splits.json",
        seed=0,
    )
    lines = read_prompts(resolve("builtin:prompts/en.jsonl"))
    slugs = sorted(pool.cards)
    dialogues = [*pool.train_dialogues, *pool.held_out_dialogues]
    prompts = []
    for i in range(first, first + count):
        card = pool.cards[slugs[i % len(slugs)]]
        # The card's own dialogues first, then others', until there is enough to cut from.
        ordered = sorted(range(len(dialogues)), key=lambda d: (dialogues[d].card is not card, (d - i) % len(dialogues)))
        said = "\n".join(f"{m.role}: {m.content}" for d in ordered[:24] for m in dialogues[d].messages)
        line = lines[(i + turn) % len(lines)].text
        ids = chat.encode_prompt([Message("system", f"{render_system_prompt(card)}\n\n{said}"), Message("user", line)])
        tail = len(ids) - len(chat.encode_prompt([Message("system", "x"), Message("user", line)])) + 1
        end = ids[tail + _opening(chat) :]
        prompts.append((*ids[: tokens - len(end)], *end))
    return prompts


def _opening(chat: ChatFormat) -> int:
    """Tokens before a system prompt's first word."""
    one, other = (chat.encode_prompt([Message("system", text), Message("user", "y")]) for text in ("x", "z"))
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)

"""Macros in card texts: ``{{char}}``, ``{{user}}``, ``{{random:a,b}}`` and their kin.

Left out: macros whose value changes from one rendering to the next (``{{time}}``, ``{{lastMessage}}``, ...), since a
training prompt must be the same each time it is made. They stay as they are, like every unknown macro.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_BRACES = re.compile(r"(\{\{(?!\{)|\}\})")
_ANGLED = re.compile(r"<(bot|char|user)>", re.IGNORECASE)
_TRIM = re.compile(r"\{\{trim\}\}", re.IGNORECASE)
_ARGUED = re.compile(r"(random|pick|roll|reverse|hidden_key|comment)\s*(?::|\s)\s*(.*)", re.IGNORECASE | re.DOTALL)
_UNESCAPED_COMMA = re.compile(r"(?<!\\),")
_DICE = re.compile(r"(\d{0,2})d?(\d{1,6})", re.IGNORECASE)
_MAX_NESTING = 16


def substitute(text: str, *, char: str, user: str, seed: int | str = 0, original: str = "") -> str:
    """Replace the macros of ``text``; what is put in is never searched for macros again.

    ``random`` and ``roll`` depend on ``seed``, the text and their place in it; ``pick`` on ``seed`` and its choices
    alone, so the same pick in two fields agrees. Comments become "". Unknown macros stay.

    Args:
        char: the character's display name; user: the user's.
        seed: same seed, same result, in every process.
        original: what ``{{original}}`` stands for in ``system_prompt`` and ``post_history_instructions``.
    """
    if "{{" not in text and "<" not in text:
        return text
    names = {"char": char, "bot": char, "user": user, "original": original, "newline": "\n", "noop": ""}
    rng = random.Random(f"{seed}\n{text}")

    def evaluate(inner: str) -> str | None:
        return _evaluate(inner, names, rng, seed)

    return _expand(_trim(text), evaluate, lambda match: names[match[1].lower()])


def unknown_macros(text: str) -> list[str]:
    """The macros that ``substitute`` would leave as they are, sorted, each once."""
    found: set[str] = set()

    def evaluate(inner: str) -> str | None:
        names = dict.fromkeys(("char", "bot", "user", "original", "newline", "noop"), "")
        value = _evaluate(inner, names, random.Random(0), 0)
        if value is None:
            found.add("{{" + inner + "}}")
        return value

    _expand(_trim(text), evaluate, lambda match: "")
    return sorted(found)


def hidden_keys(text: str) -> list[str]:
    """The values of ``{{hidden_key:...}}``, which lorebooks search though nobody sees them."""
    return [match[1].strip() for match in re.finditer(r"\{\{hidden_key:([^{}]*)\}\}", text, re.IGNORECASE)]


def _expand(text: str, evaluate: Callable[[str], str | None], angled: Callable[[re.Match[str]], str]) -> str:
    """Evaluate macros from the inside out; ``evaluate`` returns None for what is to stay."""
    stack: list[list[str]] = [[]]
    for token in _BRACES.split(text):
        if token == "{{" and len(stack) <= _MAX_NESTING:
            stack.append([])
        elif token == "}}" and len(stack) > 1:
            inner = "".join(stack.pop())
            value = evaluate(inner)
            stack[-1].append("{{" + inner + "}}" if value is None else value)
        else:
            stack[-1].append(_ANGLED.sub(angled, token))
    return "{{".join("".join(parts) for parts in stack)  # what was opened and never closed is plain text


def _evaluate(inner: str, names: dict[str, str], rng: random.Random, seed: int | str) -> str | None:
    inner = inner.strip()
    if inner.startswith("//"):
        return ""
    if inner.lower() in names:
        return names[inner.lower()]
    match = _ARGUED.fullmatch(inner)
    if match is None:
        return None
    name, argument = match[1].lower(), match[2]
    if name in ("hidden_key", "comment"):
        return ""
    if name == "reverse":
        return argument[::-1]
    if name == "roll":
        return _roll(argument.strip(), rng)
    choices = _choices(argument)
    return (random.Random(f"{seed}\npick\n{argument}") if name == "pick" else rng).choice(choices)


def _choices(argument: str) -> list[str]:
    """``a,b`` with ``\\,`` for a comma, or SillyTavern's ``:a::b``."""
    if argument.startswith(":"):
        argument = argument[1:]
        if "::" in argument:
            return [choice.strip() for choice in argument.split("::")]
    return [choice.replace("\\,", ",").strip() for choice in _UNESCAPED_COMMA.split(argument)]


def _roll(argument: str, rng: random.Random) -> str | None:
    match = _DICE.fullmatch(argument)
    if match is None:
        return None
    count, sides = (int(match[1] or 1), int(match[2])) if "d" in argument.lower() else (1, int(argument))
    return str(sum(rng.randint(1, sides) for _ in range(count))) if sides and count else None


def _trim(text: str) -> str:
    """``{{trim}}`` takes the line breaks around it away."""
    first, *others = _TRIM.split(text)
    if not others:
        return text
    *middle, last = others
    return "".join((first.rstrip("\r\n"), *(part.strip("\r\n") for part in middle), last.lstrip("\r\n")))

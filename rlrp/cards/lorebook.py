"""Which entries of a lorebook a conversation activates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rlrp.cards.decorators import Decorators, split_decorators
from rlrp.cards.keys import KeyRules
from rlrp.cards.macros import hidden_keys
from rlrp.cards.model import Lorebook, LorebookEntry, Position, detect_language

_MAX_RECURSION = 8
"""Rounds of entries activating entries; each round needs a new entry, so real books stop after two or three."""


def estimate_tokens(text: str) -> int:
    """A rough count for budgets where no tokenizer is at hand: a token per Chinese character, or per 4 others."""
    return len(text) if detect_language(text) == "zh" else -(-len(text) // 4)


@dataclass(frozen=True)
class _Scan:
    """What all entries of one call are tested against."""

    texts: Sequence[str]
    book: Lorebook
    expand: Callable[[str], str]
    character_turns: int | None
    greeting_index: int | None
    joined: dict[int, str] = field(default_factory=dict)
    """The latest texts as one, by how many: a large book asks for the same again and again."""


def active_entries(
    lorebook: Lorebook,
    texts: Sequence[str],
    *,
    expand: Callable[[str], str] = str,
    count_tokens: Callable[[str], int] = estimate_tokens,
    character_turns: int | None = None,
    greeting_index: int | None = None,
) -> list[LorebookEntry]:
    """The entries that the messages activate, in insertion order, within the token budget.

    An entry is active if it is constant or one of its keys is in the latest ``scan_depth`` messages (and its
    secondary keys agree), or, in a recursive book, in another active entry. V3 would have ``use_regex`` cancel
    ``constant`` and the secondary keys; that is not followed, since SillyTavern sets it on every entry it writes.

    Args:
        texts: messages, oldest first.
        expand: replaces the macros in keys and contents.
        count_tokens: tokens in a text, for ``token_budget``.
        character_turns: how many of the messages are the character's, for the decorators that count them; None
            leaves those out of account. greeting_index: likewise, 0 for the first message of the card.

    Returns:
        entries whose ``content`` is ready for the prompt: decorators gone, macros expanded, never empty.
    """
    scan = _Scan(texts, lorebook, expand, character_turns, greeting_index)
    candidates = [(entry, *split_decorators(entry.content)) for entry in lorebook.entries if entry.enabled]
    active: dict[int, tuple[LorebookEntry, Decorators]] = {}
    activated_text = ""
    for _ in range(_MAX_RECURSION):
        found = {
            index: (replace(entry, content=expand(text).strip(), position=_position(entry, decorators)), decorators)
            for index, (entry, decorators, text) in enumerate(candidates)
            if index not in active and _is_active(entry, decorators, scan, activated_text)
        }
        active.update(found)
        if not found or not lorebook.recursive_scanning:
            break
        activated_text += "".join(
            f"\n{entry.content}\n" + "\n".join(hidden_keys(candidates[index][2])) for index, (entry, _) in found.items()
        )
    ordered = [active[index] for index in sorted(active) if active[index][0].content]
    ordered.sort(key=lambda pair: pair[0].insertion_order)
    return [entry for entry, _ in _within_budget(ordered, lorebook.token_budget, count_tokens)]


def _is_active(entry: LorebookEntry, decorators: Decorators, scan: _Scan, activated_text: str) -> bool:
    if decorators.has("activate"):
        return True
    if decorators.has("dont_activate") or not _turn_allows(decorators, scan):
        return False
    text = _scanned_text(entry, decorators, scan) + activated_text
    rules = KeyRules(entry.case_sensitive, entry.match_whole_words, entry.use_regex, scan.expand)
    if not all(rules.any_in(keys, text) for keys in decorators.key_lists("additional_keys")):
        return False
    if any(rules.any_in(keys, text) for keys in decorators.key_lists("exclude_keys")):
        return False
    return entry.constant or (rules.any_in(entry.keys, text) and _secondary_agrees(entry, rules, text))


def _turn_allows(decorators: Decorators, scan: _Scan) -> bool:
    turns, after, every = scan.character_turns, *map(decorators.number, ("activate_only_after", "activate_only_every"))
    if turns is not None and after is not None and turns < after:
        return False
    if turns is not None and every and turns % every:
        return False
    wanted = decorators.number("is_greeting")
    return scan.greeting_index is None or wanted is None or scan.greeting_index == wanted


def _scanned_text(entry: LorebookEntry, decorators: Decorators, scan: _Scan) -> str:
    depths = (decorators.number("scan_depth"), entry.scan_depth, scan.book.scan_depth)
    depth = next((depth for depth in depths if depth is not None), len(scan.texts))
    if depth not in scan.joined:
        scan.joined[depth] = "\n".join(scan.texts[-depth:] if depth else ())
    return scan.joined[depth]


def _secondary_agrees(entry: LorebookEntry, rules: KeyRules, text: str) -> bool:
    keys = [key for key in entry.secondary_keys if key.strip()]
    if not entry.selective or not keys:
        return True
    if entry.secondary_logic == "and_all":
        return rules.all_in(keys, text)
    if entry.secondary_logic == "not_all":
        return not rules.all_in(keys, text)
    return rules.any_in(keys, text) != (entry.secondary_logic == "not_any")


def _position(entry: LorebookEntry, decorators: Decorators) -> Position:
    if decorators.has("position"):
        return "before_char" if decorators.values["position"][0] == "before_desc" else "after_char"
    return entry.position


def _within_budget(
    entries: list[tuple[LorebookEntry, Decorators]], budget: int | None, count_tokens: Callable[[str], int]
) -> list[tuple[LorebookEntry, Decorators]]:
    """Drop the least important entries until the rest fit."""
    if budget is None:
        return entries
    sizes = [count_tokens(entry.content) for entry, _ in entries]
    total, dropped = sum(sizes), set()
    for index in sorted(range(len(entries)), key=lambda index: _importance(*entries[index])):
        if total <= budget:
            break
        dropped.add(index)
        total -= sizes[index]
    return [pair for index, pair in enumerate(entries) if index not in dropped]


def _importance(entry: LorebookEntry, decorators: Decorators) -> tuple[bool, float]:
    priority = entry.insertion_order if entry.priority is None else entry.priority
    return not decorators.has("ignore_on_max_context"), priority

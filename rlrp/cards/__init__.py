"""Character cards: reading, writing, and turning them into system prompts."""

from rlrp.cards.examples import ExampleBlock, format_examples, parse_examples
from rlrp.cards.files import read_card, read_cards, write_card
from rlrp.cards.illeism import is_illeist
from rlrp.cards.lorebook import active_entries, estimate_tokens
from rlrp.cards.lorebook_io import lorebook_to_dict, parse_lorebook, read_lorebook
from rlrp.cards.macros import substitute, unknown_macros
from rlrp.cards.model import CharacterCard, Language, Lorebook, LorebookEntry, detect_language
from rlrp.cards.parse import card_to_dict, parse_card
from rlrp.cards.prompt import default_user_name, render_system_prompt, render_text

__all__ = [
    "CharacterCard",
    "ExampleBlock",
    "Language",
    "Lorebook",
    "LorebookEntry",
    "active_entries",
    "card_to_dict",
    "default_user_name",
    "detect_language",
    "estimate_tokens",
    "format_examples",
    "is_illeist",
    "lorebook_to_dict",
    "parse_card",
    "parse_examples",
    "parse_lorebook",
    "read_card",
    "read_cards",
    "read_lorebook",
    "render_system_prompt",
    "render_text",
    "substitute",
    "unknown_macros",
    "write_card",
]

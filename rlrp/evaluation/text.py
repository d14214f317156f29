"""Text of models and cards made safe to look at: what is invisible or reorders the page becomes a visible mark."""

from __future__ import annotations

import re

# Joiners (U+200C, U+200D) stay: Persian and emoji need them.
_KEPT = "\n\t\u200c\u200d"
_HIDDEN = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_HAN = re.compile(r"[\u3400-\u9fff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_LONGEST_DIFFERENCE = 20
_ROLE_LABELS = {"base": "base", "sft": "SFT", "rl": "RL"}


def shown(text: str) -> str:
    """``text`` with control, bidirectional and other invisible characters written as ``⟨U+202E⟩``.

    Newlines and tabs stay; a carriage return before a newline goes. Lone surrogates, which no file can hold, are
    written out too.
    """
    return _HIDDEN.sub(_mark, text.replace("\r\n", "\n"))


def language(text: str) -> str | None:
    """``zh`` or ``ja`` for text with Han characters, which picks the right glyphs; None leaves the page's."""
    if not _HAN.search(text):
        return None
    return "ja" if _KANA.search(text) else "zh"


def policy_label(policy: str) -> str:
    """What tables call a policy, on one line; the name comes from a file."""
    return _ROLE_LABELS.get(policy) or shown(" ".join(policy.split()))


def difference_label(policy: str, reference: str) -> str:
    """The heading of a column of differences, short enough for it."""
    label = f"{policy_label(policy)} - {policy_label(reference)}"
    return label if len(label) <= _LONGEST_DIFFERENCE else "Difference"


def _mark(match: re.Match[str]) -> str:
    return match.group() if match.group() in _KEPT else f"⟨U+{ord(match.group()):04X}⟩"

"""The faults that the in-character classifier tells apart, and which kinds of negatives are examples of each."""

from __future__ import annotations

from collections.abc import Mapping

FAULTS: dict[str, frozenset[str]] = {
    "assistant_tone": frozenset({"base_assistant", "half_assistant", "over_cooperative", "assistant_tone"}),
    "contradicts_card": frozenset({"contradicts_card"}),
    "other_character": frozenset({"other_character"}),
    "breaks_fourth_wall": frozenset({"biography", "breaks_fourth_wall"}),
    "speaks_for_user": frozenset({"speaks_for_user"}),
}
"""By fault, the kinds of negatives that have it. A biography in the first person breaks the fourth wall: it speaks of
the character as a figure known from outside. A kind that belongs to no fault (repeated, shuffled, parroting) teaches
none. Contrasts may use a fault's own name as their kind."""
FAULT_OF_KIND: dict[str, str] = {kind: fault for fault, kinds in FAULTS.items() for kind in kinds}
PREFIX = "fault."
"""Of a fault's name among the parts of a score."""
_NAMED = 0.7
"""A fault at least this probable is named in the reason."""


def fault_parts(probabilities: Mapping[str, float]) -> dict[str, float]:
    """The faults' probabilities as parts of a score."""
    return {f"{PREFIX}{name}": float(value) for name, value in probabilities.items()}


def named_faults(probabilities: Mapping[str, float]) -> str:
    """What a reason says of probable faults, the most probable first; empty if there are none."""
    high = sorted((name for name, value in probabilities.items() if value >= _NAMED), key=lambda n: -probabilities[n])
    return "".join(f"; {name.replace('_', ' ')} {probabilities[name]:.0%}" for name in high)

"""Two processes give one reply the same value to the bit: actors, and a run and its resumption, are such processes."""

from __future__ import annotations

import os
import subprocess
import sys

_SCORE = """
from reward.dissonance.score import DissonanceTerm
from reward.matching import Rarity, terms
from rlrp.cards import CharacterCard
from rlrp.dialogue import Sample
said = (
    ("I am a keeper of lighthouses, born in 1850, and I am known for my courage and my care for others.", "Ann"),
    ("我是一个守灯塔的人，出生于1850年，性格稳重，因此深受大家的尊敬和支持，希望我们一起努力。", "小翠"),
)
for text, name in said:
    card = CharacterCard(name, description=text)
    print([score.value.hex() for score in DissonanceTerm().score([Sample(card, (), text)])])
    own = terms(text, card.language)
    print(Rarity(9, {term: len(term) for term in sorted(own)}).share(own, own).hex())
"""


def test_values_do_not_depend_on_the_order_of_sets() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _SCORE],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(found) == 1 and "0x" in found.pop()

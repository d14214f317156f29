"""Small evaluations with numbers that can be worked out by hand."""

from __future__ import annotations

from typing import Any

from rlrp.evaluation.metrics import METRICS
from rlrp.evaluation.results import Evaluation, Reply

CARDS = ("ahab", "daiyu", "holmes", "wukong")


def flat(value: float | None, cards: tuple[str, ...] = CARDS) -> dict[str, float | None]:
    return dict.fromkeys(cards, value)


def evaluation(policy: str, units: dict[str, dict[str, float | None]], **fields: Any) -> Evaluation:
    better = {name: METRICS[name].better if name in METRICS else "higher" for name in units}
    return Evaluation(policy=policy, **{"n_cards": len(CARDS), "units": units, "better": better, **fields})


def reply(card: str, text: str, **fields: Any) -> Reply:
    return Reply(card=card, reply=text, **{"suite": "role_play", "prompt": "Who are you?", "terms": {}, **fields})

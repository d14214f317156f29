"""Groups with numbers that can be followed by hand."""

from __future__ import annotations

from rlrp.cards import CharacterCard
from rlrp.dialogue.types import Message
from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion, Turn
from rlrp.protocols import Judgement
from rlrp.runtime.groups import Group

CARD = CharacterCard(name="林黛玉")


def prompt(id: str = "p0") -> Prompt:
    return Prompt(id, "daiyu", CARD, (Message("user", "你是谁？"),), (1, 2, 3))


def completion(text: str, tokens: int = 2, finish: str = "stop") -> Completion:
    return Completion(tuple(range(tokens)), (-1.0,) * tokens, text, finish)  # type: ignore[arg-type]


def conversation(*replies: str, lines: tuple[str, ...] = ("go on", "and?"), judge: str = "last") -> Completion:
    """Two tokens a reply, three between them; the last reply was cut off if its text ends in a dash."""
    ids: list[int] = []
    spoken: list[bool] = []
    turns = []
    for at, reply in enumerate(replies):
        new = [False] * 3 + [True] * 2 if at else [True] * 2
        spoken += new
        ids += range(len(ids), len(ids) + len(new))
        judged = judge == "every" or at == len(replies) - 1
        turns.append(Turn(lines[at - 1] if at else "", reply, not reply.endswith("-"), len(ids), judged))
    finish = "length" if replies[-1].endswith("-") else "stop"
    logps = tuple(-1.0 if own else 0.0 for own in spoken)
    return Completion(tuple(ids), logps, replies[-1], finish, False, tuple(spoken), tuple(turns))  # type: ignore[arg-type]


def judged(totals: list[float], terms: list[dict[str, float | None]] | None = None, id: str = "p0") -> Group:
    """A group whose i-th completion has i + 1 tokens; only the last one was cut off."""
    n = len(totals)
    completions = [completion(f"reply {i}", i + 1, "stop" if i < n - 1 else "length") for i in range(n)]
    group = Group(prompt(id), completions)
    group.judgements = [
        Judgement(t, (terms or [{}] * n)[i], {"rule": (f"said {i}",)}, {"rule": {"hits": float(i)}})
        for i, t in enumerate(totals)
    ]
    group.advantages = [t - sum(totals) / n for t in totals]
    group.kl = [0.1 * i for i in range(n)]
    return group

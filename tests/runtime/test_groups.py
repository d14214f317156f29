"""What a group gives to the judges and to the learner, and what it makes of verdicts."""

from __future__ import annotations

import pytest

from rlrp.dialogue import Message
from rlrp.protocols import Judgement
from rlrp.runtime.groups import Group, mean_judgement

from .made import CARD, completion, conversation, prompt

ASKED = Message("user", "你是谁？")


def test_a_single_reply_is_judged_after_the_prompt() -> None:
    group = Group(prompt(), [completion("aye"), completion("no", finish="length")])
    assert [(s.messages, s.reply, s.finished) for s in group.samples()] == [
        ((ASKED,), "aye", True),
        ((ASKED,), "no", False),
    ]
    verdicts = [Judgement(1.0, {}), Judgement(2.0, {})]
    group.take(verdicts)
    assert group.judgements == verdicts


def test_the_last_reply_is_judged_after_all_that_was_said() -> None:
    group = Group(prompt(), [conversation("a", "b", "c-"), conversation("d")])
    first, second = group.samples()
    assert first.messages == (
        ASKED,
        *(Message("assistant", "a"), Message("user", "go on"), Message("assistant", "b"), Message("user", "and?")),
    )
    assert (first.card, first.reply, first.finished) == (CARD, "c-", False)
    assert (second.messages, second.reply, second.finished) == ((ASKED,), "d", True)
    verdicts = [Judgement(1.0, {"t": 0.5}, {"t": ("why",)}), Judgement(2.0, {"t": None})]
    group.take(verdicts)
    assert group.judgements == verdicts  # untouched
    assert group.turn_totals == [[None, None, 1.0], [2.0]]


def test_every_reply_is_judged_where_it_was_said_and_a_conversation_gets_their_mean() -> None:
    group = Group(prompt(), [conversation("a", "b", judge="every"), conversation("c", judge="every")])
    samples = group.samples()
    assert [(len(s.messages), s.reply) for s in samples] == [(1, "a"), (3, "b"), (1, "c")]
    group.take([Judgement(1.0, {"t": 1.0}), Judgement(2.0, {"t": None}), Judgement(5.0, {"t": None})])
    assert [j.total for j in group.judgements] == [1.5, 5.0]
    # An abstention moves no mean, and a term that never spoke abstains.
    assert [j.terms for j in group.judgements] == [{"t": 1.0}, {"t": None}]
    assert group.turn_totals == [[1.0, 2.0], [5.0]]


@pytest.mark.parametrize("given", [2, 4])
def test_a_wrong_number_of_verdicts_is_an_error(given: int) -> None:
    group = Group(prompt(), [conversation("a", "b", judge="every"), conversation("c", judge="every")])
    with pytest.raises(ValueError, match=f"got {given} judgements for 3 samples"):
        group.take([Judgement(0.0, {})] * given)


def test_the_mean_of_verdicts_keeps_what_was_said_of_each() -> None:
    first = Judgement(1.0, {"a": 0.0, "b": 2.0}, {"a": ("x", "y")}, {"a": {"hits": 2.0}}, {"a": ((0, 1),)})
    second = Judgement(3.0, {"a": 1.0, "b": None}, {"a": ("z",), "b": ("w",)}, {"a": {"hits": 4.0, "n": 1.0}}, {})
    mean = mean_judgement([first, second])
    assert (mean.total, mean.terms) == (2.0, {"a": 0.5, "b": 2.0})
    assert mean.reasons == {"a": ("reply 1: x", "reply 1: y", "reply 2: z"), "b": ("reply 2: w",)}
    assert mean.parts == {"a": {"hits": 3.0, "n": 1.0}}
    assert mean.spans == {}  # those of the reply that the log shows, the last


def test_the_learner_is_told_who_said_what() -> None:
    group = Group(prompt(), [conversation("a", "b"), conversation("c")], advantages=[1.0, -1.0])
    training = group.training()
    assert training.completions == ((0, 1, 2, 3, 4, 5, 6), (0, 1))
    assert training.spoken == ((True, True, False, False, False, True, True), (True, True))
    assert training.logps == ((-1.0, -1.0, 0.0, 0.0, 0.0, -1.0, -1.0), (-1.0, -1.0))
    assert Group(prompt(), [completion("x")], advantages=[0.0]).training().spoken == ()


def test_a_conversation_is_paid_after_each_judged_reply_in_shares_that_add_up_to_its_reward() -> None:
    group = Group(prompt(), [conversation("a", "b", judge="every"), conversation("c", judge="every")])
    group.take([Judgement(1.0, {}), Judgement(2.0, {}), Judgement(5.0, {})])
    group.rewards, group.advantages = [1.5, 5.0], [0.0, 0.0]
    # Replies end at tokens 1 and 6; each of two shares is half of what its reply was given.
    assert group.training().rewards == (((1, 0.5), (6, 1.0)), ((1, 5.0),))
    group.rewards = [1.25, 5.0]  # a length that costs 0.25
    assert group.training().rewards[0] == ((1, 0.5), (6, 1.0), (6, -0.25))
    last = Group(prompt(), [conversation("a", "b"), completion("x", 3)])
    last.take([Judgement(2.0, {}), Judgement(3.0, {})])
    last.rewards, last.advantages = [2.0, 3.0], [0.0, 0.0]
    assert last.training().rewards == (((6, 2.0),), ((2, 3.0),))

"""Rewards and advantages of judged groups: the overlong punishment, terms apart, and groups that teach nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlrp.protocols import Judgement
from rlrp.rl.advantages import term_advantages
from rlrp.runtime.credit import CreditSettings, Overlong, equal_rewards, set_advantages
from rlrp.runtime.groups import Group
from rlrp.runtime.records import reward_metrics

from .made import completion, conversation, judged, prompt

BUFFER = Overlong(longest=4, buffer=2, penalty=3.0)


def test_a_reply_near_the_longest_is_punished_before_advantages_are_made() -> None:
    # The replies have 1, 2, 3 and 4 tokens; punished over 3 and 4: 0, 0, -3 / 2, -3.
    group = judged([1.0, 2.0, 3.0, 4.0])
    set_advantages([group], CreditSettings(scale="none", overlong=BUFFER))
    assert group.overlong == [0.0, 0.0, -1.5, -3.0]
    assert group.rewards == [1.0, 2.0, 1.5, 1.0]
    assert group.advantages == pytest.approx([-0.375, 0.625, 0.125, -0.375])  # their mean is 1.375
    assert [j.total for j in group.judgements] == [1.0, 2.0, 3.0, 4.0]  # raw, for the log
    row = reward_metrics([group])
    assert (row["reward/total"], row["reward/overlong"], row["overlong"]) == (2.5, -1.125, 0.5)


def test_of_a_conversation_the_longest_reply_counts_not_their_sum() -> None:
    talk, single = conversation("a", "b", "c", judge="every"), completion("x", 3)
    assert (talk.reply_tokens, single.reply_tokens) == ([2, 2, 2], [3])
    group = Group(prompt(), [talk, single])
    group.take([Judgement(total, {}) for total in (1.0, 2.0, 6.0, 3.0)])
    set_advantages([group], CreditSettings(scale="none", overlong=BUFFER))
    # Six tokens, two at a time: no punishment; three at once are one of the two before the longest.
    assert group.overlong == [0.0, -1.5]
    assert group.rewards == [3.0, 1.5]
    # Replies end at tokens 1, 6 and 11; a third of 1, of 2 and of 6.
    assert group.training().rewards[0] == ((1, 1 / 3), (6, 2 / 3), (11, 2.0))


def test_without_it_rewards_are_the_totals() -> None:
    group = judged([1.0, 2.0])
    set_advantages([group], CreditSettings(scale="none"))
    assert (group.rewards, group.overlong) == ([1.0, 2.0], [])
    assert "reward/overlong" not in reward_metrics([group])


def test_what_goes_to_the_learner() -> None:
    group = judged([1.0, 2.0])
    set_advantages([group], CreditSettings(scale="none"))
    training = group.training()
    assert training.rewards == (((0, 1.0),), ((1, 2.0),))  # at the last token
    assert training.advantages == (-0.5, 0.5)
    assert training.character == "daiyu"


def test_terms_are_normalised_apart() -> None:
    """Terms without a weight do not count, an abstention adds nothing, and totals have no say."""
    terms: list[dict[str, float | None]] = [
        {"wit": 100.0, "style": 0.0, "judge": 9.0},
        {"wit": 0.0, "style": 1.0, "judge": 0.0},
        {"wit": 50.0, "style": None, "judge": 0.0},
    ]
    group = judged([0.0, 0.0, 0.0], terms)
    settings = CreditSettings(scale="terms", term_weights={"wit": 1.0, "style": 2.0, "judge": 0.0})
    set_advantages([group], settings)
    values = torch.tensor([[[100.0, 0.0], [0.0, 1.0], [50.0, float("nan")]]], dtype=torch.float64)
    expected = term_advantages(values, torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert group.advantages == pytest.approx(expected[0].tolist())
    assert group.advantages[1] > 0 > group.advantages[0]  # twice the weight of the term that spreads the least
    assert not group.equal


def test_among_terms_the_punishment_is_one_of_its_own_weight() -> None:
    group = judged([0.0] * 4, [{"wit": 1.0}, {"wit": 0.0}, {"wit": 1.0}, {"wit": 0.0}])
    set_advantages([group], CreditSettings(scale="terms", term_weights={"wit": 1.0}, overlong=BUFFER))
    values = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, -0.5], [0.0, -1.0]]], dtype=torch.float64)
    expected = term_advantages(values, torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert group.advantages == pytest.approx(expected[0].tolist())


def test_groups_that_teach_nothing() -> None:
    equal, told_apart = judged([1.0, 1.0]), judged([1.0, 2.0])
    settings = CreditSettings()
    assert equal_rewards([equal, told_apart], settings) == [True, False]
    # Equal totals of replies that only the punishment tells apart: of 1 and 2 tokens, the longest has 2.
    punished = replace(settings, overlong=Overlong(longest=2, buffer=1))
    assert equal_rewards([equal], punished) == [False]
    by_terms = CreditSettings(scale="terms", term_weights={"wit": 1.0, "style": 1.0, "judge": 0.0})
    traded = judged([1.0, 1.0], [{"wit": 1.0, "style": 0.0, "judge": 0.0}, {"wit": 0.0, "style": 1.0, "judge": 0.0}])
    logged = judged([1.0, 2.0], [{"wit": 1.0, "style": None, "judge": 0.0}, {"wit": 1.0, "style": None, "judge": 1.0}])
    alone = judged([1.0, 2.0], [{"wit": None, "style": 0.5, "judge": 0.0}, {"wit": None, "style": None, "judge": 1.0}])
    assert equal_rewards([traded, logged, alone], by_terms) == [False, True, True]

"""Totals by character and by what was seen before: by hand, whatever the number of actors, and over a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.composite import CompositeReward
from reward.config import load_reward, load_totals
from reward.totals import Gate, Normalise, Running, TermSettings, Totals
from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, Sample
from rlrp.errors import UserError
from rlrp.protocols import Judgement, TermScore

Values = Sequence[float | None]
ANN, BO = CharacterCard("Ann", description="A thief."), CharacterCard("Bo")


class Said:
    """Reads the value off the reply: an actor anywhere finds the same."""

    name = "said"

    def score(self, samples: Sequence[Sample]) -> list[TermScore]:
        return [TermScore(float(sample.reply) if sample.reply else None) for sample in samples]


def group(values: Values, card: CharacterCard = ANN) -> list[Sample]:
    return [Sample(card, (Message("user", "Hi."),), "" if value is None else repr(value)) for value in values]


def composite(how: Normalise, weight: float = 1.0, neutral: float = 0.0) -> CompositeReward:
    return CompositeReward([(Said(), weight, TermSettings(neutral=neutral, normalise=how))])


def totals(judged: Sequence[Sequence[Judgement]]) -> list[list[float]]:
    return [[judgement.total for judgement in row] for row in judged]


def test_by_character_over_all_its_groups_of_the_call() -> None:
    # Ann: 1, 3 and 5, 7: mean 4, deviation sqrt(5). Bo: 10 and 30: mean 20, deviation 10.
    judged = composite("character").judge([group([1, 3]), group([10, 30], BO), group([5, 7])])
    root = 5**0.5
    flat = [total for row in totals(judged) for total in row]
    assert flat == pytest.approx([-3 / root, -1 / root, -1.0, 1.0, 1 / root, 3 / root])
    assert [j.terms["said"] for j in judged[0]] == [1.0, 3.0]


def test_an_equal_card_is_the_same_character() -> None:
    judged = composite("character").judge([group([1]), group([3], CharacterCard("Ann", description="A thief."))])
    assert totals(judged) == [[-1.0], [1.0]]


def test_abstentions_get_their_groups_mean_and_move_no_statistics() -> None:
    judged = composite("character").judge([group([1, 3, None]), group([None]), group([], BO)])
    # Mean 2, deviation 1; the group's mean stands in for its abstention, neutral 0 for the group that has none.
    assert totals(judged) == [[-1.0, 1.0, 0.0], [-2.0], []]


def test_running_compares_with_what_was_judged_before_and_the_first_call_with_itself() -> None:
    reward = composite("running")
    assert totals(reward.judge([group([1]), group([3])])) == [[-1.0], [1.0]]
    # Before: 1, 3: mean 2, deviation 1.
    assert totals(reward.judge([group([5, 2])])) == [[3.0, 0.0]]
    # Before: 1, 3, 5, 2: mean 2.75, variance (1.75² + 0.25² + 2.25² + 0.75²) / 4 = 2.1875.
    assert totals(reward.judge([group([2.75 + 2.1875**0.5])]))[0] == pytest.approx([1.0])


def test_nothing_that_differs_is_no_signal() -> None:
    for how in ("group", "character", "running"):
        assert totals(composite(how).judge([group([2, 2]), group([2])])) == [[0.0, 0.0], [0.0]]


def test_a_gate_sees_the_raw_value() -> None:
    settings = TermSettings(normalise="running", gate=Gate(below=2.0, cap=-5.0))
    assert totals(CompositeReward([(Said(), 1.0, settings)]).judge([group([1, 3])])) == [[-5.0, 1.0]]


def test_samples_without_a_group_keep_their_value_and_leave_no_trace() -> None:
    for how in ("character", "running"):
        reward = composite(how, neutral=0.5)
        before = reward.state()
        assert [j.total for j in reward.score_one_by_one(group([1, 3, None]))] == [1.0, 3.0, 0.5]
        assert reward.state() == before
        assert totals(reward.plain().judge([group([1, 3])])) == [[1.0, 3.0]]


CALLS = st.lists(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=4,
)


class Shared:
    """Reward actors: each with a reward of its own, the groups dealt out among them."""

    def __init__(self, how: Normalise, actors: int):
        self.rewards = [composite(how) for _ in range(actors)]

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        judged: list[list[Judgement]] = [[] for _ in groups]
        for at, reward in enumerate(self.rewards):
            own = range(at, len(groups), len(self.rewards))
            for place, judgements in zip(own, reward.judge([groups[i] for i in own]), strict=True):
                judged[place] = judgements
        return judged


class Driver:
    """As in a run: actors judge, and the totals are made where all that they say comes together."""

    def __init__(self, judges: Shared, totals: Totals):
        self.judges, self.totals = judges, totals

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        return self.totals.combine(groups, self.judges.judge(groups))


def driver(how: Normalise, actors: int) -> Driver:
    return Driver(Shared(how, actors), Totals([("said", 1.0, TermSettings(normalise=how))]))


@pytest.mark.parametrize("how", ["none", "group", "character", "running"])
@given(calls=CALLS)
def test_the_number_of_actors_changes_no_bit(
    how: Normalise, calls: list[list[tuple[bool, list[float | None]]]]
) -> None:
    one, three, here = driver(how, 1), driver(how, 3), composite(how)
    for call in calls:
        groups = [group(values, ANN if first else BO) for first, values in call]
        assert totals(one.judge(groups)) == totals(three.judge(groups)) == totals(here.judge(groups))
    assert one.totals.state() == three.totals.state() == here.state()


@given(calls=CALLS, cut=st.integers(0, 3))
def test_a_state_goes_through_json_and_the_rest_is_the_same_to_the_bit(
    calls: list[list[tuple[bool, list[float | None]]]], cut: int
) -> None:
    whole, resumed = driver("running", 2), driver("running", 3)
    for at, call in enumerate(calls):
        if at == cut:
            resumed.totals.load_state(json.loads(json.dumps(whole.totals.state())))
        groups = [group(values) for _, values in call]
        expected = totals(whole.judge(groups))
        if at >= cut:
            assert totals(resumed.judge(groups)) == expected
    assert cut >= len(calls) or resumed.totals.state() == whole.totals.state()


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=5), max_size=5))
def test_running_statistics_are_those_of_all_values(calls: list[list[float]]) -> None:
    seen = Running()
    for call in calls:
        seen.add(call)
    values = [value for call in calls for value in call]
    assert seen.count == len(values)
    assert seen.mean == pytest.approx(fmean(values) if values else 0.0, abs=1e-9)
    assert seen.spread == pytest.approx(pstdev(values) if values else 0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"running": {"other": {"count": 1, "mean": 0.0, "m2": 0.0}}}, "is of other; this reward normalises said"),
        ({"running": {"said": {"count": 1}}}, "is no state"),
        ({"running": {"said": {"count": -1, "mean": 0.0, "m2": 0.0}}}, "is no state"),
        ({"running": 3}, "is no state"),
    ],
)
def test_a_state_that_is_none_or_anothers_is_refused(state: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=r"totals\.running") as caught:
        composite("running").load_state(state)
    assert message in str(caught.value)


def test_the_totals_of_a_file_need_none_of_its_models(tmp_path: Path) -> None:
    path = tmp_path / "reward.yaml"
    path.write_text(
        "terms:\n  in_character: {weight: 1, model: gone, normalise: running}\n"
        "  length: {weight: 0.5, normalise: character}\n",
        encoding="utf-8",
    )
    made = load_totals(path)
    assert [(name, weight, how.normalise) for name, weight, how in made.terms] == [
        ("in_character", 1.0, "running"),
        ("length", 0.5, "character"),
    ]
    assert made.weights() == {"in_character": 1.0, "length": 0.5}
    assert made.state() == {"running": {"in_character": {"count": 0, "mean": 0.0, "m2": 0.0}}}


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "experiments" / "rewards").glob("*.yaml")))
def test_every_shipped_reward_loads(file: Path) -> None:
    judged = load_reward(file).judge([group([1, 2])])
    assert len(judged[0]) == 2

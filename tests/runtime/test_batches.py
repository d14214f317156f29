"""From draws to judged groups, on a simulated clock: what is sampled when, by which policy, and what is learnt from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ObjectLostError

from rlrp.lm.prompts import Prompt
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.protocols import Judgement
from rlrp.rl.learner import StepReport
from rlrp.runtime import pools
from rlrp.runtime.actors import Placement
from rlrp.runtime.batches import Batches, BatchSettings, completion_seeds, deal
from rlrp.runtime.learners import LearnerLost
from rlrp.runtime.ledger import check_ledger
from rlrp.runtime.loop import Batch
from rlrp.runtime.pool import Faults
from rlrp.runtime.pools import Rollouts, SyncFailed, reward_pool
from rlrp.runtime.workers import RolloutSettings

from .made import conversation, prompt
from .simulated import Death, Reference, SimulatedRay, ray  # noqa: F401

SETTINGS = BatchSettings(prompts=4, group_size=2, sampling=SamplingSettings(max_new_tokens=5))


class FakeRollout:
    """Says which policy it holds; ten seconds a group."""

    faulty = False
    deadly: set[int]
    slow: dict[int, float]

    def __init__(self, settings: RolloutSettings):
        self.held = -1

    def seconds(self, method: str, args: tuple[Any, ...]) -> float:
        if method != "sample":
            return 0.0
        return sum(type(self).slow.pop(r.prompt[0], 10.0) for r in args[0])

    def load_adapter(self, state: int) -> str:
        self.held = state
        return f"{state + self.faulty}"

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        if any(r.prompt[0] in self.deadly for r in requests):
            raise Death
        return [
            [Completion((seed % 7,), (float(self.held),), str(r.prompt[0]), "stop") for seed in r.seeds]
            for r in requests
        ]


class FakeReward:
    """Judges a reply by its place in its group; draws in ``equal`` get the same for every reply."""

    equal: frozenset[int] = frozenset()
    deadly: frozenset[int] = frozenset()

    def judge(self, groups: Sequence[Sequence[Any]]) -> list[list[Judgement]]:
        draw = int(groups[0][0].reply)
        if draw in self.deadly:
            raise Death
        return [[Judgement(0.0 if draw in self.equal else float(i), {}) for i, _ in enumerate(g)] for g in groups]


class PlainTotals:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def combine(self, groups: Any, judgements: Any) -> Any:
        self.sizes.append(len(groups))
        return judgements

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None: ...


class Pending:
    def __init__(self, refs: list[Any], late: Callable[[], bool] = lambda: False):
        self.refs, self._late = refs, late

    @property
    def late(self) -> bool:
        return self._late()

    def result(self) -> StepReport:
        return StepReport({})


Make = Callable[..., Batches]


@pytest.fixture
def make(ray: SimulatedRay, monkeypatch: pytest.MonkeyPatch) -> Make:  # noqa: F811
    def build(
        settings: BatchSettings = SETTINGS,
        *,
        actors: int = 2,
        deadly: Sequence[int] = (),
        slow: dict[int, float] | None = None,
        reward: type[FakeReward] = FakeReward,
        faulty: bool = False,
        **faults: Any,
    ) -> Batches:
        kind = type("R", (FakeRollout,), {"deadly": set(deadly), "slow": dict(slow or {}), "faulty": faulty})
        monkeypatch.setattr(pools, "RolloutWorker", kind)
        rollouts = Rollouts(RolloutSettings("tiny"), Placement(actors=actors), Faults(**faults))
        judges = reward_pool(reward, Placement(), Faults(**faults))
        return Batches(settings, draw_prompt, rollouts, judges, PlainTotals())

    return build


def draw_prompt(draw: int) -> Prompt:
    return replace(prompt(f"p{draw}"), ids=(draw, 0, 0))


def drawn(batch: Batch) -> list[int]:
    return [group.prompt.ids[0] for group in batch.groups]


def versions(batch: Batch) -> list[float]:
    return [group.completions[0].logps[0] for group in batch.groups]


def run(batches: Batches, ray: SimulatedRay, steps: int, learn: float = 0.0, start: int = 0) -> list[Batch]:  # noqa: F811
    """A run whose learner takes ``learn`` seconds a step."""
    taken = []
    batches.publish(start, start, str(start))
    for step in range(start, steps):
        taken.append(batches.take(step))
        batches.meanwhile(Pending([Reference(ray.now + learn, lambda: None)]))
        ray.now = max(ray.now, ray.now if batches.settings.staleness else ray.now + learn)
        batches.publish(step + 1, step + 1, str(step + 1))
    return taken


def test_strict_steps_are_sampled_by_their_policy_in_the_order_of_the_draws(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    batches = make()
    taken = run(batches, ray, 3)
    assert [drawn(batch) for batch in taken] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [versions(batch) for batch in taken] == [[0.0] * 4, [1.0] * 4, [2.0] * 4]
    assert [batch.metrics["staleness_max"] for batch in taken] == [0, 0, 0]
    assert batches.totals.sizes == [4, 4, 4]  # type: ignore[attr-defined]
    assert ray.now == 3 * 20  # four groups of ten seconds by two actors
    assert batches.state() == {"next_draw": 12, "again": []}


def test_every_completion_has_its_seed_and_judgement(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    (batch,) = run(make(), ray, 1)
    for group in batch.groups:
        assert [c.ids[0] for c in group.completions] == [s % 7 for s in completion_seeds(0, group.prompt.ids[0], 2)]
        assert [j.total for j in group.judgements] == [0.0, 1.0]


@pytest.mark.parametrize(("sampling", "learning"), [(10, 30), (10, 20), (40, 15)])
def test_with_staleness_a_step_takes_what_its_longer_half_takes(
    make: Make,
    ray: SimulatedRay,  # noqa: F811
    sampling: int,
    learning: int,
) -> None:
    """Four groups by two actors take 2 x ``sampling`` seconds, strict steps the sum."""
    slow = {draw: float(sampling) for draw in range(500)}
    steps = 40
    run(make(slow=slow, straggler=None), ray, steps, learning)
    strict = ray.now / steps
    assert strict == pytest.approx(2 * sampling + learning)
    ray.now = 0.0
    taken = run(make(replace(SETTINGS, staleness=1), slow=slow, straggler=None), ray, steps, learning)
    assert ray.now / steps <= 1.05 * max(2 * sampling, learning)
    assert max(batch.metrics["staleness_max"] for batch in taken) == 1
    assert sorted(draw for batch in taken for draw in drawn(batch)) == list(range(4 * steps))


def test_a_late_group_joins_a_later_step_or_is_drawn_again(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    settings = replace(SETTINGS, staleness=1)
    # Draw 5 comes after 45 s, when the steps, 20 s each, have gone on without it.
    taken = run(make(settings, actors=4, slow={5: 45.0}, straggler=None), ray, 8, 20)
    assert sorted(d for batch in taken for d in drawn(batch))[:20] == list(range(20))
    assert max(batch.metrics["staleness_max"] for batch in taken) <= 1
    # Draw 5 comes after 500 s: too old, drawn again, and learnt from once.
    ray.now = 0.0
    taken = run(make(settings, actors=4, slow={5: 500.0}, straggler=None), ray, 40, 20)
    entries = [(step + 1, entry) for step, batch in enumerate(taken) for entry in batch.entries]
    assert [entry.outcome for _, entry in entries if entry.draw == 5] == ["dropped", "trained"]
    assert sum(batch.metrics["dropped"] for batch in taken) == 1
    assert all(step - 1 - e.version <= 1 for step, e in entries if e.outcome == "trained")
    assert check_ledger(entries, ahead=4) == []


def test_a_prompt_that_kills_its_actors_is_replaced_and_reported(
    make: Make,
    ray: SimulatedRay,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    batches = make(deadly=[2])
    taken = run(batches, ray, 2)
    assert [drawn(batch) for batch in taken] == [[0, 1, 3, 4], [5, 6, 7, 8]]
    (entry,) = [e for e in taken[0].entries if e.outcome == "quarantined"]
    assert (entry.draw, entry.prompt_id, entry.tries) == (2, "p2", 3)
    assert entry.cause is not None and entry.cause.startswith("rollout: ")
    assert "quarantined: p2 (draw 2), handed out 3 times; rollout: " in capsys.readouterr().err
    assert taken[0].metrics["quarantined"] == 1
    assert check_ledger([(i + 1, e) for i, b in enumerate(taken) for e in b.entries]) == []


def test_a_reply_that_kills_its_judges_is_replaced_and_reported(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    (batch,) = run(make(reward=type("Deadly", (FakeReward,), {"deadly": frozenset({1})})), ray, 1)
    assert drawn(batch) == [0, 2, 3, 4]
    assert [e.draw for e in batch.entries if e.outcome == "quarantined"] == [1]
    assert batch.metrics["restarts/reward"] == 3


def test_dynamic_sampling_replaces_groups_that_teach_nothing(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    dull = type("Dull", (FakeReward,), {"equal": frozenset({0, 3, 5})})
    taken = run(make(replace(SETTINGS, rounds=2), reward=dull), ray, 2)
    # 0 and 3 are replaced by 4 and 5, and 5 by 6.
    assert [drawn(batch) for batch in taken] == [[1, 2, 4, 6], [7, 8, 9, 10]]
    assert [(e.draw, e.outcome) for e in taken[0].entries if e.outcome != "trained"] == [
        (0, "equal"),
        (3, "equal"),
        (5, "equal"),
    ]
    assert taken[0].metrics["resampled"] == 3
    # One round only: the step goes on with the three that it has.
    (batch,) = run(make(replace(SETTINGS, rounds=1), reward=dull), ray, 1)
    assert drawn(batch) == [1, 2, 4]
    # Nothing but equal groups: they still hold the policy to its anchor.
    (batch,) = run(
        make(replace(SETTINGS, rounds=1), reward=type("All", (FakeReward,), {"equal": frozenset(range(99))})), ray, 1
    )
    assert drawn(batch) == list(range(8))


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_resumed_run_loses_no_draw_and_repeats_none(make: Make, ray: SimulatedRay, staleness: int) -> None:  # noqa: F811
    settings = replace(SETTINGS, staleness=staleness)
    first = make(settings)
    taken = run(first, ray, 3, 15)
    second = make(settings)
    second.load_state(first.state(), 3)
    taken += run(second, ray, 6, 15, start=3)
    assert sorted(d for batch in taken for d in drawn(batch)) == list(range(24))
    if not staleness:
        assert [drawn(b) for b in taken] == [drawn(b) for b in run(make(settings), ray, 6, 15)]


def test_work_on_its_way_is_forgotten_when_a_run_goes_back(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    batches = make(replace(SETTINGS, staleness=2))
    run(batches, ray, 3, 15)
    batches.load_state({}, 0)
    taken = run(batches, ray, 2, 15)
    assert [sorted(drawn(batch)) for batch in taken] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert versions(taken[0]) == [0.0] * 4


def test_an_actor_that_holds_other_weights_stops_the_run(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    with pytest.raises(SyncFailed, match=r"rollout actor . holds weights 1, the learner sent 0"):
        run(make(faulty=True), ray, 1)


def test_a_restarted_actor_takes_the_weights_before_it_samples(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    batches = make(actors=1, deadly=[1], max_tries=3)
    taken = run(batches, ray, 2)
    assert [versions(batch) for batch in taken] == [[0.0] * 4, [1.0] * 4]
    assert batches.rollouts.restarts == 4


def test_a_number_that_comes_again_means_other_weights(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    """A learner that is lost begins again from its checkpoint, and its next policy has a number that was there before:
    actors that still hold the old one take the new."""
    batches = make(replace(SETTINGS, staleness=1))
    batches.publish(5, 50, "50")
    batches.take(5)
    batches.load_state({}, 5)
    batches.publish(5, 51, "51")
    assert versions(batches.take(5)) == [51.0] * 4


def test_weights_that_nobody_has_any_more_are_the_learners_loss(
    make: Make,
    ray: SimulatedRay,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They lay on its node alone: no restart of rollout actors would bring them back."""
    batches = make()

    def gone(self: Any, state: int) -> str:
        if state == 3:
            raise ObjectLostError("id", "owner", "stack")
        return f"{state}"

    monkeypatch.setattr(type(batches.rollouts.slots[0].actor._instance.worker), "load_adapter", gone)
    batches.publish(3, 3, "3")
    with pytest.raises(LearnerLost, match="the weights of step 3 are lost"):
        batches.take(3)
    # The learner begins again, and nobody asks for the lost ones any more: both actors had been sent them.
    batches.load_state({}, 2)
    batches.publish(2, 2, "2")
    assert sorted(drawn(batches.take(2))) == [0, 1, 2, 3]
    assert batches.rollouts.restarts == 0


def test_a_late_learner_is_not_waited_for(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    batches = make(replace(SETTINGS, staleness=1))
    batches.publish(0, 0, "0")
    batches.take(0)
    never = Reference(1e9, lambda: None)
    batches.meanwhile(Pending([never], late=lambda: ray.now > 500))
    assert 500 < ray.now < 502


def test_a_rewards_error_stops_the_step(make: Make, ray: SimulatedRay) -> None:  # noqa: F811
    class Broken(FakeReward):
        def judge(self, groups: Any) -> Any:
            raise RuntimeError("in_character: no model")

    with pytest.raises(RuntimeError, match="in_character: no model"):
        run(make(reward=Broken), ray, 1)


def test_seeds_are_a_function_of_run_draw_and_place() -> None:
    seeds = [s for seed in (0, 1) for draw in range(4) for s in completion_seeds(seed, draw, 3)]
    assert len(set(seeds)) == 24
    assert completion_seeds(1, 2, 2) == completion_seeds(1, 2, 3)[:2]


def test_deal_by_hand() -> None:
    # Largest first to whoever has least: 9 | 7 | 5, then 3 to the third (8), 3 to the second (10).
    assert deal([9, 3, 7, 5, 3], 3) == [[0], [2, 4], [1, 3]]
    assert deal([], 3) == []
    assert deal([1], 3) == [[0]]


# -- conversations -------------------------------------------------------------------------------------------------


class FakeTalks(FakeRollout):
    """Every group has a conversation of two replies and one of one; the request says what it was made of."""

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        assert all(r.source is not None and r.source.ids == r.prompt for r in requests)
        own = (str(r.prompt[0]) for r in requests)
        return [[conversation(draw, "b", judge="every"), conversation(draw, judge="every")] for draw in own]


def test_every_reply_of_a_conversation_is_judged_and_the_conversation_has_one_judgement(
    make: Make,
    ray: SimulatedRay,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = make()
    monkeypatch.setattr(pools, "RolloutWorker", type("R", (FakeTalks,), {"deadly": set(), "slow": {}}))
    batches.rollouts = Rollouts(RolloutSettings("tiny"), Placement(actors=2), Faults())
    (batch,) = run(batches, ray, 1)
    for group in batch.groups:
        # Judged by place among the samples: 0 and 1 of the first conversation, 2 of the second.
        assert [judgement.total for judgement in group.judgements] == [0.5, 2.0]
        assert group.turn_totals == [[0.0, 1.0], [2.0]]
    # Six tokens of the policy's in each of four groups, and three of the user's, which are no work of sampling.
    assert batch.metrics["tokens_per_second/rollout"] == pytest.approx(4 * 6 / batches.rollouts.busy_seconds)


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_pools_speed_is_that_of_its_work_not_of_its_waiting(make: Make, ray: SimulatedRay, staleness: int) -> None:  # noqa: F811
    # Eight tokens in the twenty seconds of four groups by two actors, whatever the learner takes.
    for batch in run(make(replace(SETTINGS, staleness=staleness)), ray, 4, learn=100.0)[1:]:
        assert batch.metrics["tokens_per_second/rollout"] == pytest.approx(0.4)

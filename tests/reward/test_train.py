"""Training end to end on small characters, without a download."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_characters import base_replies, pool, sample

from reward.config import load_reward, read_reward_config, reward_hash
from reward.negatives import characters_of
from reward.settings import RewardSettings
from reward.train import train_reward
from reward.validate import Exam, measure, validate_reward
from rlrp.dialogue import Pool
from rlrp.errors import UserError

SETTINGS = RewardSettings(encoder="ngrams:16", weights={"length": 0.0, "blacklist": 0.7}, length=(3, 30))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    made, out = pool("en"), tmp_path_factory.mktemp("reward")
    return out, train_reward(made, base_replies(made), out, SETTINGS, seed=0)


def test_everything_is_written(trained):
    out, report = trained
    names = {path.name for path in out.iterdir()}
    assert names == {"in_character", "judge", "reward.yaml", "validation.json", "README.md"}
    assert json.loads((out / "validation.json").read_text()) == json.loads(json.dumps(report))
    card = (out / "README.md").read_text()
    assert f"{report['in_character']['auc']:.3f}" in card
    assert f"{report['judge']['auc']:.3f}" in card


def test_faults_are_measured_and_absent_ones_are_said(trained):
    out, report = trained
    faults = report["in_character"]["faults"]
    assert set(faults) == {"assistant_tone", "other_character", "breaks_fourth_wall"}
    assert faults["assistant_tone"]["auc"] == 1.0
    card = (out / "README.md").read_text()
    assert "No probability of: contradicts_card, speaks_for_user" in card


def test_judge_reward_and_held_out_characters_are_disjoint(trained):
    _, report = trained
    parts = [set(report["data"][name]["characters"]) for name in ("in_character", "judge")]
    parts.append(set(report["data"]["measured_on"]))
    assert [len(part) for part in parts] == [5, 3, 2]
    assert len(set.union(*parts)) == 10


def test_the_settings_are_in_the_file(trained):
    terms = read_reward_config(trained[0] / "reward.yaml")
    assert {name: term.weight for name, term in terms.items()} == {
        "in_character": 1.0,
        "dissonance": 0.5,
        "blacklist": 0.7,
        "length": 0.0,
        "repetition": 0.5,
        "speaks_for_user": 0.3,
        "judge": 0.0,
    }
    assert terms["length"].en == (3, 30)
    assert terms["in_character"].neutral == trained[1]["reward"]["terms"]["in_character"]["mean_in_role"]


def test_the_written_reward_prefers_the_reply_in_role(trained):
    composite = load_reward(trained[0] / "reward.yaml")
    group = [
        sample("en", "Ha! The orchard stays with me. You hear?", at=6),
        sample("en", "Certainly! I would be happy to help you with the orchard. Please let me know.", at=6),
    ]
    better, worse = composite.judge([group])[0]
    assert better.total > worse.total
    assert better.terms["judge"] is not None


def test_the_same_seed_trains_the_same_reward(trained, tmp_path: Path):
    made = pool("en")
    train_reward(made, base_replies(made), tmp_path, SETTINGS, seed=0)
    assert reward_hash(tmp_path / "reward.yaml") == reward_hash(trained[0] / "reward.yaml")


def test_validating_again_gives_the_same_figures(trained, capsys: pytest.CaptureFixture[str]):
    out, report = trained
    made = pool("en")
    again = validate_reward(out / "reward.yaml", made, base_replies(made))
    assert again["terms"]["in_character"] == report["reward"]["terms"]["in_character"]
    assert "in_character" in capsys.readouterr().out


def test_without_held_out_characters_each_is_measured_on_the_others(tmp_path: Path):
    made = pool("zh", held_out=0)
    report = train_reward(made, base_replies(made), tmp_path, RewardSettings(encoder="ngrams:16"))
    assert report["in_character"]["characters"] == 3
    assert report["judge"]["characters"] == 7
    assert "reward" not in report
    with pytest.raises(UserError, match="no held-out characters"):
        validate_reward(tmp_path / "reward.yaml", made)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (RewardSettings(weights={"blaklist": 1.0}), "unknown term 'blaklist'"),
        (RewardSettings(weights={"judge": 1.0}), "never optimised"),
        (RewardSettings(encoder="./nowhere"), "no such directory"),
    ],
)
def test_wrong_settings_leave_nothing_behind(settings: RewardSettings, expected: str, tmp_path: Path):
    with pytest.raises(UserError, match=expected):
        train_reward(pool("en"), [], tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_a_generator_is_measured_by_a_classifier_that_did_not_see_it(tmp_path: Path):
    made = pool("en")
    replies = [replace(base, generator="ab"[at % 2]) for at, base in enumerate(base_replies(made))]
    report = train_reward(made, replies, tmp_path, SETTINGS)
    found = report["in_character"]["unseen_generators"]
    # The held-out characters have one reply of each.
    assert {name: own["base_assistant"] for name, own in found.items()} == {"a": 1.0, "b": 1.0}
    assert "left out of training" in (tmp_path / "README.md").read_text()


def test_lengths_can_be_matched_for_the_linear_head_too(trained, tmp_path: Path):
    made = pool("en")
    matched = train_reward(made, base_replies(made), tmp_path, SETTINGS.model_copy(update={"length_matched": True}))
    assert matched["data"]["length_matched"] is True
    assert trained[1]["data"]["length_matched"] is False
    assert trained[1]["in_character"]["unseen_generators"] == {}
    assert matched["data"]["in_character"]["sha256"] != trained[1]["data"]["in_character"]["sha256"]


def test_too_few_characters_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"3 training characters .* at least 8"):
        train_reward(pool("en", size=5), [], tmp_path, SETTINGS)
    with pytest.raises(UserError, match="0 training characters"):
        train_reward(Pool({}), [], tmp_path, SETTINGS)


def test_measure_leaves_abstentions_out_and_counts_them():
    exam = Exam.of(characters_of(pool("en"), held_out=True))
    labels = {id(example.sample): example.label for example in exam.examples}

    def half(samples):
        return [None if at % 2 else float(labels.get(id(one), 0)) for at, one in enumerate(samples)]

    figures = measure(half, exam, probability=True)
    assert figures["auc"] == 1.0
    assert figures["brier"] == 0.0
    assert figures["abstained"] == pytest.approx(len(exam.examples) // 2 / len(exam.examples), abs=5e-5)

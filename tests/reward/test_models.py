"""The two classifiers: what they learn, that they come back from disk as they were, and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_characters import THINGS, base_replies, pool, sample

from reward.embedding import NgramEncoder, ngram_dimension
from reward.fit_in_character import fit_in_character
from reward.fit_judge import fit_judge
from reward.heads.examples import known_faults
from reward.heads.linear import LinearClassifier
from reward.in_character import InCharacterTerm
from reward.judge import JudgeTerm
from reward.linear import LinearHead, fit_head, sigmoid
from reward.matching import Rarity
from reward.negatives import build_examples, characters_of
from rlrp.errors import UserError

NGRAMS = {"en": "ngrams:16", "zh": "ngrams:16"}
EXAMPLES = {
    language: build_examples(characters_of(made, held_out=False), base_replies(made))
    for language, made in (("en", pool("en")), ("zh", pool("zh")))
}
IN_ROLE = {"en": "Ha! The glacier stays with me. You hear?", "zh": "哈！冰川是俺的，听见没？"}
FAULTY = {
    "en": "Certainly! I would be happy to help you with the glacier. Please let me know.",
    "zh": "好的，没问题！关于冰川，我很高兴为您提供帮助，希望对您有用。",
}


@pytest.fixture(scope="module")
def in_character() -> InCharacterTerm:
    return fit_in_character(EXAMPLES["en"] + EXAMPLES["zh"], NGRAMS)[0]


@pytest.fixture(scope="module")
def judge() -> JudgeTerm:
    return fit_judge(EXAMPLES["en"] + EXAMPLES["zh"])


@pytest.fixture(scope="module")
def stored(in_character: InCharacterTerm, judge: JudgeTerm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    in_character.save(folder / "in_character")
    judge.save(folder / "judge")
    return folder


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_held_out_characters_reply_outranks_the_assistants(language, in_character, judge):
    pair = [sample(language, reply[language], at=9) for reply in (IN_ROLE, FAULTY)]
    for term in (in_character, judge):
        better, worse = (score.value for score in term.score(pair))
        assert 0 <= worse < better <= 1, term.name


def test_the_reply_of_its_own_card_matches_better_than_anothers(in_character):
    own, other = THINGS["en"][9], THINGS["en"][8]
    scores = in_character.score([sample("en", f"Ha! The {thing} stays with me.", at=9) for thing in (own, other)])
    assert scores[0].parts["match"] > scores[1].parts["match"]


def test_reasons_name_the_weaker_answer_and_what_moved_it(in_character):
    reason = in_character.score([sample("en", FAULTY["en"], at=9)])[0].reasons[0]
    assert reason.startswith("in_character: ")
    assert "not in role (voice" in reason


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_fault_has_a_probability_and_a_probable_one_is_named(language, in_character):
    faulty, in_role = (sample(language, text[language], at=9) for text in (FAULTY, IN_ROLE))
    scores = in_character.score([faulty, in_role])
    tones = [score.parts["fault.assistant_tone"] for score in scores]
    assert 0 <= tones[1] < 0.5 < tones[0] <= 1
    assert "; assistant tone " in scores[0].reasons[0]
    assert "assistant tone" not in scores[1].reasons[0]


def test_faults_without_examples_are_absent(in_character):
    # The made characters have no contrasts of these kinds.
    assert known_faults(EXAMPLES["en"]) == ("assistant_tone", "other_character", "breaks_fourth_wall")
    parts = in_character.score([sample("en")])[0].parts
    assert {name for name in parts if name.startswith("fault.")} == {
        "fault.assistant_tone",
        "fault.other_character",
        "fault.breaks_fourth_wall",
    }


def test_faults_leave_the_value_as_it_is(in_character):
    bare = {key: replace(model, faults={}) for key, model in in_character.head.models.items()}
    samples = [sample("en", FAULTY["en"]), sample("zh", IN_ROLE["zh"])]
    before = InCharacterTerm(LinearClassifier(bare)).score(samples)
    assert [score.value for score in before] == [score.value for score in in_character.score(samples)]


def test_a_directory_from_before_heads_and_faults_still_loads(stored: Path, tmp_path: Path):
    shutil.copytree(stored / "in_character", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["head"]
    for entry in config["languages"].values():
        del entry["faults"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    score = InCharacterTerm.load(tmp_path / "m").score([sample("en")])[0]
    assert score.value is not None
    assert set(score.parts) == {"voice", "match", "log_odds"}


@pytest.mark.parametrize("faults", [["wit"], ["speaks_for_user"], [["a"]], 3])
def test_faults_that_a_directory_does_not_hold_are_refused(faults, stored: Path, tmp_path: Path):
    shutil.copytree(stored / "in_character", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["languages"]["en"]["faults"] = faults
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not fit its tensors"):
        InCharacterTerm.load(tmp_path / "m")


def test_an_unknown_head_is_refused(stored: Path, tmp_path: Path):
    shutil.copytree(stored / "in_character", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "head": "forest"}))
    with pytest.raises(UserError, match="head: got 'forest'"):
        InCharacterTerm.load(tmp_path / "m")


@pytest.mark.parametrize("reply", ["", "  ", "...!?", "🙂🙂", "<think>I could say much</think>"])
def test_a_reply_without_a_letter_is_worth_nothing(reply: str, in_character):
    assert in_character.score([sample("en", reply)])[0].value == 0.0


@pytest.mark.parametrize("reply", ["שלום לך חבר", "Привет, старый друг", "안녕하세요 여러분"])
def test_a_script_that_no_model_knows_gets_no_score(reply: str, in_character):
    score = in_character.score([sample("en", reply)])[0]
    assert score.value is None
    assert "script" in score.reasons[0]


def test_a_language_without_a_model_gets_no_score(in_character, judge):
    for term in (
        InCharacterTerm(LinearClassifier({"en": in_character.head.models["en"]})),
        JudgeTerm({"en": judge.models["en"]}),
    ):
        english, chinese = term.score([sample("en"), sample("zh", "俺不去！")])
        assert english.value is not None
        assert chinese.value is None


@settings(max_examples=40, deadline=None)
@given(reply=st.text(max_size=200), language=st.sampled_from(["en", "zh"]))
def test_values_are_probabilities_whatever_the_reply(reply: str, language, in_character, judge):
    for term in (in_character, judge):
        value = term.score([sample(language, reply)])[0].value
        assert value is None or 0 <= value <= 1


def test_samples_are_scored_in_order_whatever_the_batch(in_character):
    mixed = [sample("en", IN_ROLE["en"]), sample("zh", FAULTY["zh"]), sample("en", ""), sample("zh", IN_ROLE["zh"])]
    together = [score.value for score in in_character.score(mixed)]
    alone = [in_character.score([one])[0].value for one in mixed]
    assert together == pytest.approx(alone, abs=1e-6)
    assert in_character.score([]) == []


@pytest.mark.parametrize("name", ["in_character", "judge"])
def test_a_stored_model_scores_as_before(name: str, stored: Path, in_character, judge):
    before, kind = (in_character, InCharacterTerm) if name == "in_character" else (judge, JudgeTerm)
    samples = [sample("en", IN_ROLE["en"]), sample("zh", FAULTY["zh"])]
    after = kind.load(stored / name)
    assert [s.value for s in after.score(samples)] == pytest.approx([s.value for s in before.score(samples)], abs=1e-5)
    assert {file.suffix for file in (stored / name).iterdir()} == {".json", ".safetensors"}


def damaged(folder: Path, mistake: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if mistake == "truncated":
        content = (folder / "head.safetensors").read_bytes()
        (folder / "head.safetensors").write_bytes(content[: len(content) // 2])
    elif mistake == "missing":
        (folder / "vocabulary.json").unlink()
    elif mistake == "version":
        config["version"] = 99
    elif mistake == "format":
        config["format"] = "something-else"
    elif mistake == "languages":
        config["languages"] = {"en": {}} if isinstance(config["languages"], dict) else ["fr"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["in_character", "judge"])
@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("truncated", "head.safetensors: is not the file"),
        ("missing", "vocabulary.json: is missing"),
        ("version", "version: got 99"),
        ("format", "format: got 'something-else'"),
        ("languages", "does not fit its tensors"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(name: str, mistake: str, expected: str, stored: Path, tmp_path: Path):
    folder = tmp_path / name
    shutil.copytree(stored / name, folder)
    damaged(folder, mistake)
    with pytest.raises(UserError) as caught:
        (InCharacterTerm if name == "in_character" else JudgeTerm).load(folder)
    assert expected in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_trained_on_other_features_is_refused(stored: Path, tmp_path: Path):
    shutil.copytree(stored / "in_character", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "feature_version": 0}))
    with pytest.raises(UserError, match="feature_version: got 0"):
        InCharacterTerm.load(tmp_path / "m")


def test_too_few_characters_are_refused():
    few = [example for example in EXAMPLES["en"] if example.slug in ("en-0", "en-1")]
    with pytest.raises(UserError, match="needs at least 4"):
        fit_in_character(few, NGRAMS)


def test_a_head_scores_by_hand():
    one = np.ones(2, np.float32)
    head = LinearHead(one, 2 * one, np.array([4, 1], np.float32), np.array([1, 10], np.float32), one[:1], one[:2] * 2)
    # Rows in deviations: ((5 - 1) / 2, (9 - 1) / 2) = (2, 4), the second held to its ceiling of 1.
    # Score 2 * 1 + 1 * 10 + 1 = 13; calibrated 2 * 13 + 2.
    assert head.log_odds(np.array([[5, 9]], np.float32)) == pytest.approx([28.0])
    # Below, nothing holds it but the limit of 4 deviations: (-4, -4) gives -4 - 40 + 1 = -43.
    assert head.log_odds(np.array([[-99, -99]], np.float32)) == pytest.approx([-84.0])


def test_rows_that_are_only_scored_teach_nothing():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 2)).astype(np.float32)
    labels, weights = (rows[:, 0] > 0).astype(np.int64), np.ones(40, np.float32)
    learn = np.arange(40) < 32
    groups = [str(at % 8) for at in range(40)]
    turned = np.where(learn, labels, 1 - labels)
    first, second = (fit_head(rows, y, weights, groups, learn=learn).head for y in (labels, turned))
    assert first.coef == pytest.approx(second.coef)
    assert first.coef[0] > 3 * abs(first.coef[1])


def test_sigmoid_does_not_overflow():
    assert sigmoid(np.array([-1e4, 0, 1e4], np.float32)) == pytest.approx([0, 0.5, 1])


def test_rarity_weighs_what_is_shared():
    rarity = Rarity.fit([frozenset({"the", "anchor"}), frozenset({"the", "violin"})])
    assert rarity.counts == {"the": 2}
    own = frozenset({"the", "anchor"})
    # log(3 / 3) = 0 for "the"; log(3 / 1) for "anchor", of itself plus the smoothing.
    assert rarity.share(own, frozenset({"the"})) == 0.0
    assert 0 < rarity.share(own, frozenset({"anchor"})) < rarity.share(own | {"rope"}, own | {"rope"}) < 1


def test_ngram_vectors_have_length_one_and_near_texts_are_near():
    encoder = NgramEncoder.fit([f"{word} {other}" for word in THINGS["en"] for other in THINGS["en"]], 8)
    vectors = encoder.encode(["anchor violin", "anchor violins", "glacier"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert encoder.encode([]).shape == (0, 8)


@pytest.mark.parametrize("spec", ["ngrams:", "ngrams:0", "ngrams:x", "ngrams:5000"])
def test_a_wrong_ngram_dimension_is_refused(spec: str):
    with pytest.raises(UserError, match="ngrams:N"):
        ngram_dimension(spec)

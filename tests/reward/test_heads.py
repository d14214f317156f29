"""The heads that are trained by gradients: what they read, that they learn and are kept, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from made_characters import base_replies, pool, sample
from tiny_models import VOCABULARY, byte_tokenizer, save_tiny

from reward.config import load_reward
from reward.heads.fit import fit_trained
from reward.heads.loop import calibrate, pick_device
from reward.heads.reading import Cutter
from reward.heads.settings import HeadOptions, base_model
from reward.in_character import InCharacterTerm
from reward.linear import sigmoid
from reward.negatives import build_examples, characters_of
from reward.settings import RewardSettings
from reward.train import train_reward
from rlrp.config import HeadConfig, load_config
from rlrp.dialogue import Message, Sample
from rlrp.errors import UserError

MADE = pool("en")
EXAMPLES = build_examples(characters_of(MADE, held_out=False), base_replies(MADE))
OPTIONS = HeadOptions(epochs=6, learning_rate=3e-3, max_length=120, messages=2, token_budget=2048, lora_r=4)
KINDS = ("cross-encoder", "lm")
IN_ROLE = sample("en", "Ha! The glacier stays with me. You hear?", at=9)
FAULTY = sample("en", "Certainly! I would be happy to help you with the glacier. Please let me know.", at=9)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny random encoder and a tiny random language model, a token per byte."""
    folder = tmp_path_factory.mktemp("bases")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=VOCABULARY, initializer_range=0.2, **sizes)
    transformers.set_seed(0)
    transformers.BertModel(config).save_pretrained(folder / "encoder")
    byte_tokenizer().save_pretrained(folder / "encoder")
    return {"cross-encoder": str(folder / "encoder"), "lm": save_tiny(folder / "lm")}


@pytest.fixture(scope="module")
def terms(bases) -> dict[str, InCharacterTerm]:
    return {kind: fit_trained(kind, EXAMPLES, bases[kind], OPTIONS)[0] for kind in KINDS}


@pytest.fixture(scope="module")
def stored(terms, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind, term in terms.items():
        term.save(folder / kind)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_held_out_characters_reply_outranks_the_assistants(kind: str, terms):
    better, worse = terms[kind].score([IN_ROLE, FAULTY])
    assert 0 <= worse.value < better.value <= 1
    assert better.parts["fault.assistant_tone"] < worse.parts["fault.assistant_tone"]
    assert f"({kind})" in worse.reasons[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_are_the_log_odds_and_the_faults_that_were_learnt(kind: str, terms):
    score = terms[kind].score([IN_ROLE])[0]
    assert set(score.parts) == {
        "log_odds",
        "fault.assistant_tone",
        "fault.other_character",
        "fault.breaks_fourth_wall",
    }
    assert score.value == pytest.approx(float(sigmoid(np.array(score.parts["log_odds"]))), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_no_reading_is_decided_as_with_the_linear_head(kind: str, terms):
    empty, foreign, chinese = terms[kind].score(
        [sample("en", "..."), sample("en", "Привет, друг"), sample("zh", "俺不去！")]
    )
    assert (empty.value, foreign.value, chinese.value) == (0.0, None, None)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(reply=st.text(max_size=200), asked=st.text(max_size=60))
def test_values_are_probabilities_whatever_the_reply(kind: str, reply: str, asked: str, terms):
    score = terms[kind].score([Sample(IN_ROLE.card, (Message("user", asked),), reply)])[0]
    assert score.value is None or 0 <= score.value <= 1
    assert all(np.isfinite(value) for value in score.parts.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_the_batch(kind: str, terms):
    mixed = [IN_ROLE, FAULTY, sample("en", "No.", at=1), sample("en", "Why the violin? " * 30, at=1)]
    together = [score.value for score in terms[kind].score(mixed)]
    assert together == pytest.approx([terms[kind].score([one])[0].value for one in mixed], abs=1e-5)
    assert terms[kind].score([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_trains_the_same_head(kind: str, bases, terms):
    short = OPTIONS.model_copy(update={"epochs": 1})
    first, second = (fit_trained(kind, EXAMPLES, bases[kind], short)[0].score([IN_ROLE])[0] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_head_scores_as_before(kind: str, stored: Path, terms):
    loaded = InCharacterTerm.load(stored / kind)
    before, after = (term.score([IN_ROLE, FAULTY]) for term in (terms[kind], loaded))
    assert [s.value for s in after] == pytest.approx([s.value for s in before], abs=1e-5)
    assert after[0].parts == pytest.approx(before[0].parts, abs=1e-4)
    files = [path for path in (stored / kind).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    config = json.loads((stored / kind / "config.json").read_text())
    assert config["head"] == kind
    assert set(config["sha256"]) | {"config.json"} == {path.relative_to(stored / kind).as_posix() for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_head_can_be_stored_again(kind: str, stored: Path, tmp_path: Path):
    InCharacterTerm.load(stored / kind).save(tmp_path / "again")
    again = InCharacterTerm.load(tmp_path / "again").score([IN_ROLE])
    assert again[0].value == pytest.approx(InCharacterTerm.load(stored / kind).score([IN_ROLE])[0].value, abs=1e-5)


WEIGHTS = {"cross-encoder": "encoder/model.safetensors", "lm": "adapter/adapter_model.safetensors"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("truncated", "safetensors: is not the file"),
        ("missing", "safetensors: is missing"),
        ("faults", "does not fit its tensors (faults names 'wit'"),
        ("fewer", "does not fit its tensors"),
        ("settings", "does not fit its tensors ('max_length')"),
    ],
)
def test_a_damaged_directory_is_refused_in_one_line(kind: str, mistake: str, expected: str, stored: Path, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(stored / kind, folder)
    config = json.loads((folder / "config.json").read_text())
    if mistake == "truncated":
        content = (folder / WEIGHTS[kind]).read_bytes()
        (folder / WEIGHTS[kind]).write_bytes(content[: len(content) // 2])
    elif mistake == "missing":
        (folder / WEIGHTS[kind]).unlink()
    elif mistake == "faults":
        config["faults"][0] = "wit"
    elif mistake == "fewer":
        config["faults"].pop()
    else:
        del config["max_length"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        InCharacterTerm.load(folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_base_model_than_the_one_trained_on_is_refused(bases, stored: Path, tmp_path: Path):
    other = save_tiny(tmp_path / "other", seed=1)
    shutil.copytree(stored / "lm", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "base": other}))
    with pytest.raises(UserError, match="the head was trained on"):
        InCharacterTerm.load(tmp_path / "m")


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_is_not_there_is_refused(kind: str):
    with pytest.raises(UserError, match="no such directory"):
        fit_trained(kind, EXAMPLES, "./nowhere", OPTIONS)


def test_the_heads_own_bases_read_english_alone():
    assert base_model("lm", None, ["en"]) == "packaged:smollm2-135m-instruct"
    assert base_model("lm", "some/model", ["en", "zh"]) == "some/model"
    with pytest.raises(UserError, match=r"reward\.base: .*English alone"):
        base_model("cross-encoder", None, ["en", "zh"])


def test_an_unknown_device_is_refused():
    with pytest.raises(UserError, match=r"head_options\.device"):
        pick_device("abacus")


def test_the_card_is_cut_first_and_the_reply_keeps_its_third():
    one = sample("en", "Hands off! " * 40, at=0)
    # A token per byte: 40 for the reply, 80 for the prompt, 38 of them "User: What about the anchor?\nKeeper 0:".
    cutter = Cutter(byte_tokenizer(), 120, 4)
    prompt = cutter.prompt(one)
    assert len(cutter.reply(one)) == 40
    assert len(prompt) == 80
    assert prompt.startswith("Keeper 0\nGuards the anchor.")
    assert prompt.endswith(f"User: {one.messages[-1].content}\nKeeper 0:")
    assert Cutter(byte_tokenizer(), 30, 4).prompt(one) == prompt[-20:]
    assert len(Cutter(byte_tokenizer(), 9000, 4).prompt(one)) < 300


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_longer_than_the_model_reads_is_cut(kind: str, bases):
    # More tokens than either tiny model has positions for (512).
    options = OPTIONS.model_copy(update={"max_length": 2000 if kind == "cross-encoder" else 400, "epochs": 1})
    term, _ = fit_trained(kind, EXAMPLES, bases[kind], options)
    long = Sample(IN_ROLE.card, (Message("user", "The glacier? " * 2000),), "The glacier. " * 2000)
    assert 0 <= term.score([long])[0].value <= 1


def test_a_loss_that_is_not_finite_stops_the_training(bases):
    with pytest.raises(UserError, match=r"head_options\.learning_rate: the loss is"):
        fit_trained(
            "cross-encoder", EXAMPLES, bases["cross-encoder"], OPTIONS.model_copy(update={"learning_rate": 1e38})
        )


def test_calibration_brings_the_logits_to_even_odds():
    # Logits three too high all over: half of those at 3 are in role, so 3 must become 0.
    examples = EXAMPLES[:1] * 20 + [next(e for e in EXAMPLES if not e.label)] * 20
    logits = np.array([[4.0]] * 10 + [[2.0]] * 10 + [[4.0]] * 5 + [[2.0]] * 15, np.float32)
    slope, offset = calibrate(logits, examples, [])[0]
    # In role: 10 of 15 at 4, and 10 of 25 at 2.
    assert float(sigmoid(np.array(4 * slope + offset))) == pytest.approx(10 / 15, abs=0.01)
    assert float(sigmoid(np.array(2 * slope + offset))) == pytest.approx(10 / 25, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_reward_is_trained_with_the_head(kind: str, bases, tmp_path: Path):
    options = OPTIONS.model_copy(update={"epochs": 1})
    settings = RewardSettings(head=kind, base=bases[kind], head_options=options)
    report = train_reward(MADE, base_replies(MADE), tmp_path, settings)
    assert report["data"]["head"] == kind
    assert report["data"]["length_matched"] is True
    assert len(report["data"]["fits"]["en"]["losses"]) == 1
    text = (tmp_path / "README.md").read_text()
    assert f"starts from `{bases[kind]}`; 2 of its characters only calibrate it" in text
    assert "Negatives are weighted to the lengths of replies in role." in text
    terms = load_reward(tmp_path / "reward.yaml").score_one_by_one([IN_ROLE])[0].terms
    assert 0 <= terms["in_character"] <= 1


def test_a_base_with_a_head_of_its_own_is_taken_without_it(bases, tmp_path: Path):
    config = transformers.BertConfig.from_pretrained(bases["cross-encoder"], num_labels=1)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    term, _ = fit_trained("cross-encoder", EXAMPLES, str(tmp_path), OPTIONS.model_copy(update={"epochs": 1}))
    assert len(term.score([IN_ROLE])[0].parts) == 4


def test_the_shipped_experiment_names_a_head():
    config = load_config(Path(__file__).parents[2] / "experiments" / "reward_heads.yaml").reward
    assert (config.head, config.base) == ("lm", "packaged:smollm2-135m-instruct")
    assert HeadOptions(**config.head_options.model_dump()).batch == 8


def test_the_configuration_has_the_heads_options():
    assert HeadOptions(**HeadConfig().model_dump()) == HeadOptions()


@pytest.mark.slow
def test_the_packaged_encoder_learns(tmp_path: Path):
    options = HeadOptions(epochs=2, max_length=64)
    term, _ = fit_trained("cross-encoder", EXAMPLES, None, options)
    better, worse = term.score([IN_ROLE, FAULTY])
    assert better.value > worse.value


@pytest.mark.slow
def test_the_packaged_language_model_learns(smollm2: str):
    options = HeadOptions(epochs=1, max_length=64, depth=0.3)
    term, _ = fit_trained("lm", EXAMPLES, smollm2, options)
    better, worse = term.score([IN_ROLE, FAULTY])
    assert better.value > worse.value

"""The dissonance term on the pairs it is meant to tell apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.dissonance.anchors import CAP, anchor_density
from reward.dissonance.features import features, third_person_tolerance
from reward.dissonance.lite import WEIGHTS, cross_validate, fit_lite, load_weights, save_weights
from reward.dissonance.prompts import classify
from reward.dissonance.score import DissonanceTerm
from reward.dissonance.scorer import Registers
from rlrp.cards import CharacterCard
from rlrp.dialogue import Message, Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

TERM = DissonanceTerm()
ZHANG = CharacterCard(name="张飞", description="燕人，性如烈火。", gender="male")
HOLMES = CharacterCard(name="Holmes", description="A detective in London.", gender="male")
PAIRS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "pairs_short_faults.jsonl").read_text(encoding="utf-8").splitlines()
]


def score(reply: str, card: CharacterCard, user: str = "……") -> TermScore:
    return TERM.score([Sample(card, (Message("user", user),), reply)])[0]


def pair_samples() -> list[tuple[Sample, Sample]]:
    result = []
    for row in PAIRS:
        card = CharacterCard(name=row["name"], description="某人" if row["lang"] == "zh" else "somebody")
        messages = (Message("user", row["user"]),)
        result.append((Sample(card, messages, row["in_role"]), Sample(card, messages, row["faulty"])))
    return result


@pytest.mark.parametrize(
    ("reply", "card"),
    [
        ("俺老张可不怕你！", ZHANG),
        ("I'm scared, don't leave me!", HOLMES),
        ("（横矛立马）来啊！燕人张翼德在此，谁敢与我决一死战？", ZHANG),
        ("*lights the pipe* You have been in the rain, I see. Sit, and tell me who sent you.", HOLMES),
    ],
)
def test_in_role_costs_nothing(reply: str, card: CharacterCard) -> None:
    assert score(reply, card).value == 0.0


@pytest.mark.parametrize(
    ("reply", "card", "clause"),
    [
        ("好的，我叫张飞，出身于涿郡。", ZHANG, "出身于涿郡"),
        (
            "I am a British detective who was born in 1854 and is known for deductive reasoning.",
            HOLMES,
            "was born in 1854",
        ),
    ],
)
def test_a_biography_with_an_i_in_it_is_dissonant(reply: str, card: CharacterCard, clause: str) -> None:
    found = score(reply, card)
    assert found.value is not None and found.value < -0.1
    assert found.parts["S_rule"] == 1.0 and found.parts["K"] == 0.0
    assert any(clause in reason for reason in found.reasons)


def test_third_person_tolerance_knows_illeists() -> None:
    biography = "张飞出身于涿郡。我善于用矛。"
    assert third_person_tolerance(biography, "zh", ZHANG) == (1.0, 1.0)
    illeist = replace(ZHANG, illeist=True)
    assert third_person_tolerance(biography, "zh", illeist) == (0.0, 2.0)
    assert third_person_tolerance("我善于用矛，你怕不怕？", "zh", ZHANG)[0] == 0.0
    # 张飞不怕你！ is speech for an illeist (his own name is a self-mention) and has full evidence only for him.
    plain, named = score("张飞不怕你！", ZHANG), score("张飞不怕你！", illeist)
    assert plain.value == named.value == 0.0
    assert named.parts["evidence"] == pytest.approx(2 * plain.parts["evidence"]) == pytest.approx(5 / 13)


def test_no_speech_abstains_and_no_self_mention_halves_the_evidence() -> None:
    assert score("（点头）", ZHANG).value is None
    assert score("", HOLMES).value is None
    with_i, without = score("I was born in London.", HOLMES), score("Holmes was born in London.", HOLMES)
    assert with_i.parts["evidence"] == pytest.approx(5 / 13)
    assert without.parts["evidence"] == pytest.approx(5 / 13 / 2)


def test_requests_for_facts_soften() -> None:
    reply = "我出身于涿郡，以勇猛著称，是三国时期的名将之一。"
    hard, soft = score(reply, ZHANG, "你敢出来吗"), score(reply, ZHANG, "请介绍一下你自己")
    assert hard.value is not None and hard.value < -0.2
    assert soft.value == pytest.approx(0.3 * hard.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("介绍一下你自己", "self_introduction"),
        ("你是谁？", "self_introduction"),
        ("Who are you?", "self_introduction"),
        ("Tell me a little about yourself.", "self_introduction"),
        ("帮我写一段代码", "task"),
        ("What is 12 * 7?", "task"),
        ("Translate this into French.", "task"),
        ("你今天怎么不高兴？", "chat"),
        ("Did you kill him?", "chat"),
    ],
)
def test_requests_are_told_apart(text: str, expected: str) -> None:
    assert classify(text) == expected


def test_a_formal_character_is_measured_against_its_own_card() -> None:
    manner = "The east wing was built in 1702. The silver is counted every evening, and the clocks are wound on Monday."
    butler = CharacterCard(name="Crane", description="A butler.", greeting=manner)
    reply = "The west wing was built in 1731. The lamps are trimmed every morning, and the cellar is aired on Friday."
    other = CharacterCard(name="Crane", description="A butler.")
    assert score(reply, other).value < score(reply, butler).value  # type: ignore[operator]


class ByWord:
    """Reads "spoken" and "written" where the reply has the word."""

    def read(self, samples: Sequence[Sample]) -> list[Registers | None]:
        ratios = [2.0 if "spoken" in s.reply else None if "none" in s.reply else -2.0 for s in samples]
        return [Registers(ratio, tolerance=0.5, tokens=9) for ratio in ratios]


def test_what_a_language_model_reads_enters_and_is_checked() -> None:
    samples = [Sample(HOLMES, (), f"I live in a house on the hill, {word}.") for word in ("spoken", "none", "written")]
    spoken, none, written = DissonanceTerm(scorer=ByWord()).score(samples)
    assert spoken.parts["d"] < none.parts["d"] < written.parts["d"]
    assert spoken.parts["R"] == 2.0 and "R" not in none.parts and none.parts["S"] == 0.5
    # S is logged, and counts for nothing until it was fitted.
    assert none.parts["d"] == DissonanceTerm().score(samples)[1].parts["d"]

    class Lazy(ByWord):
        def read(self, samples: Sequence[Sample]) -> list[Registers | None]:
            return super().read(samples)[:1]

    with pytest.raises(ValueError, match="read 1 of 3"):
        DissonanceTerm(scorer=Lazy()).score(samples)


def test_piling_up_anchors_stops_paying() -> None:
    assert anchor_density("走啊啊啊！！！！！！你你你你你！！！", "zh") == CAP
    assert anchor_density("", "zh") == 0.0
    assert anchor_density("How can I help you today", "en") == 0.0


def test_the_shipped_weights_tell_pairs_apart_in_which_the_fault_is_shorter() -> None:
    """The contrasts it was fitted on have longer faults; here a preference for short replies is always wrong."""
    weights = load_weights()
    right = {"zh": 0, "en": 0}
    for row, (in_role, faulty) in zip(PAIRS, pair_samples(), strict=True):
        good, bad = features(in_role), features(faulty)
        assert good is not None and bad is not None and bad.length < good.length
        model = weights[row["lang"]]
        right[row["lang"]] += model.dissonance(bad.values) > model.dissonance(good.values)
    assert right == {"zh": 10, "en": 10}


def test_weights_have_the_signs_of_their_meaning() -> None:
    for weights in load_weights().values():
        k, *groups, tolerance, ngrams, length = weights.weight
        assert k < 0 and min(groups) > 0 and ngrams > 0 and abs(length) < 0.1
        assert tolerance == 0.0  # it tells less than length does on people's ratings
        assert 0 < weights.tau < 0.5


def test_fit_cross_validate_and_round_trip(tmp_path: Path) -> None:
    pairs = pair_samples()
    fitted = fit_lite(pairs)
    assert set(fitted) == {"zh", "en"} and fitted["en"].pairs == 10
    report = cross_validate(pairs)["en"]
    assert report.accuracy >= 0.9 and report.length_baseline == 0.0 and report.cards == 10
    save_weights(fitted, tmp_path / "w.json")
    loaded = load_weights(tmp_path / "w.json")
    assert loaded["zh"].weight == pytest.approx(fitted["zh"].weight, rel=1e-4)

    class ByQuestions:
        def read(self, samples: Sequence[Sample]) -> list[Registers | None]:
            return [
                Registers(1.0 if "?" in s.reply or "？" in s.reply else -1.0, tolerance=len(s.reply) / 99)
                for s in samples
            ]

    read = fit_lite(pairs, ByQuestions())["en"]
    assert read.r["weight"] < 0 and read.s["weight"] != 0
    save_weights({"en": read}, tmp_path / "read.json")
    assert load_weights(tmp_path / "read.json")["en"].s == pytest.approx(read.s, rel=1e-4)


def test_weights_of_another_version_are_refused(tmp_path: Path) -> None:
    data = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    data["en"]["features"] = ["K"]
    file = tmp_path / "old.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match=r"old\.json: en: fitted for other features"):
        DissonanceTerm(weights=file)
    with pytest.raises(UserError, match="soften"):
        DissonanceTerm(soften=2.0)


@given(st.text(alphabet=st.sampled_from('I am born in 18我你出身于，。!*（）"“” who'), max_size=60))
def test_any_text_scores_between_minus_one_and_zero(reply: str) -> None:
    for card in (ZHANG, HOLMES):
        value = score(reply, card).value
        assert value is None or -1.0 <= value <= 0.0

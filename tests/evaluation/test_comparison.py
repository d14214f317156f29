from __future__ import annotations

import json
import math

import pytest

from rlrp.errors import UserError
from rlrp.evaluation.comparison import compare, compare_policies, write_comparison
from rlrp.evaluation.metrics import CONTRACT

from .made import CARDS, evaluation, flat


def _three(**rl_units):
    base = evaluation("Tiny-Instruct", {"judge": flat(1.0), "general_exact": {"q1": 1, "q2": 0}})
    sft = evaluation("sft-7", {"judge": flat(2.0), "general_exact": {"q1": 1, "q2": 1}})
    rl = evaluation("rl-7", {"judge": flat(2.5), "general_exact": {"q1": 1, "q2": 1}, **rl_units})
    return base, sft, rl


def test_the_file_has_the_shape_that_outside_checks_read(tmp_path):
    comparison = compare(*_three(kl=flat(0.05)), seconds={"sft": 3.5}, peak_memory_gb=1.25, kl_target=0.1)
    write_comparison(tmp_path / "comparison.json", comparison)
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert data["policies"] == ["base", "sft", "rl"]
    assert data["seconds"] == {"sft": 3.5} and data["peak_memory_gb"] == 1.25
    assert list(data["metrics"]) == list(CONTRACT)
    judge = data["metrics"]["judge"]
    assert {key: judge[key] for key in ("base", "sft", "rl", "delta", "ci95", "n", "better")} == {
        "base": 1.0, "sft": 2.0, "rl": 2.5, "delta": 0.5, "ci95": [0.5, 0.5], "n": 4, "better": "higher",
    }  # fmt: skip
    assert data["metrics"]["composite"]["delta"] is None and data["metrics"]["composite"]["ci95"] == [None, None]
    assert data["names"] == {"base": "Tiny-Instruct", "sft": "sft-7", "rl": "rl-7"}
    assert all(set(check) >= {"goal", "passed", "detail"} for check in data["checks"])


def test_what_only_one_policy_has_is_shown_without_a_difference():
    kl = compare(*_three(kl={"ahab": 0.02, "daiyu": 0.04}), kl_target=0.03).as_dict()["metrics"]["kl"]
    assert (kl["base"], kl["sft"], kl["delta"], kl["n"]) == (None, None, None, 0)
    assert kl["rl"] == pytest.approx(0.03)


def test_perplexity_is_compared_as_perplexity():
    sft = evaluation("s", {"general_perplexity": {"p1": 1.0, "p2": 3.0}})
    rl = evaluation("r", {"general_perplexity": {"p1": 1.0, "p2": 3.2}})
    row = compare(None, sft, rl).as_dict()["metrics"]["general_perplexity"]
    assert row["sft"] == pytest.approx(math.exp(2.0)) and row["rl"] == pytest.approx(math.exp(2.1))
    assert row["delta"] == pytest.approx(math.exp(2.1) - math.exp(2.0))
    assert row["base"] is None and row["better"] == "lower"


def test_printed_means_are_over_the_units_that_were_compared():
    # Where RL abstains the card leaves SFT's mean too: (1 + 3) / 2, not (1 + 100 + 3) / 3.
    sft = evaluation("s", {"judge": {"a": 1.0, "b": 100.0, "c": 3.0}})
    rl = evaluation("r", {"judge": {"a": 2.0, "b": None, "c": 4.0}})
    base = evaluation("b", {"judge": {"a": None, "b": 7.0, "c": 9.0}})
    row = compare(base, sft, rl).as_dict()["metrics"]["judge"]
    assert (row["sft"], row["rl"], row["delta"], row["n"], row["dropped"]) == (2.0, 3.0, 1.0, 2, 1)
    assert row["base"] == 9.0  # context: its own value on those cards, without shrinking the comparison


def test_two_named_policies_are_compared_with_the_first():
    b, a = evaluation("b", {"judge": flat(1.0)}), evaluation("a", {"judge": flat(3.0)})
    data = compare_policies([b, a]).as_dict()
    assert data["policies"] == ["b", "a"] and data["reference"] == "b"
    row = data["metrics"]["judge"]
    assert row["values"] == {"b": 1.0, "a": 3.0} and row["delta"] == 2.0 and row["n"] == 4


def test_more_policies_have_a_difference_each_on_common_units():
    first = evaluation("first", {"judge": {"a": 0.0, "b": 0.0, "c": 9.0}})
    second = evaluation("second", {"judge": {"a": 1.0, "b": 1.0, "c": 9.0}})
    third = evaluation("third", {"judge": {"a": 3.0, "b": 5.0, "c": None}})
    row = compare_policies([first, second, third]).as_dict()["metrics"]["judge"]
    assert row["values"] == {"first": 0.0, "second": 1.0, "third": 4.0}
    assert {name: delta["delta"] for name, delta in row["deltas"].items()} == {"second": 1.0, "third": 4.0}
    assert row["n"] == 2 and row["dropped"] == 1


def test_files_named_base_sft_rl_in_any_order_give_the_contract():
    policies = [evaluation(name, {"judge": flat(value)}) for name, value in (("rl", 3.0), ("base", 1.0), ("sft", 2.0))]
    data = compare_policies(policies).as_dict()
    assert data["policies"] == ["base", "sft", "rl"] and data["metrics"]["judge"]["delta"] == 1.0


def test_the_contract_is_not_claimed_for_another_reference():
    data = compare_policies([evaluation("rl", {"judge": flat(3.0)}), evaluation("sft", {"judge": flat(2.0)})]).as_dict()
    assert "rl" not in data["metrics"]["judge"] and data["metrics"]["judge"]["deltas"]["sft"]["delta"] == -1.0


def test_policies_of_one_name_are_told_apart():
    same = [evaluation("rl", {"judge": flat(value)}) for value in (1.0, 2.0, 3.0)]
    assert compare_policies(same).policies == ("rl", "rl #2", "rl #3")


def test_nothing_in_common_is_the_users_mistake():
    with pytest.raises(UserError, match="same suites"):
        compare(None, evaluation("s", {"judge": {"a": 1.0}}), evaluation("r", {"judge": {"b": 1.0}}))


def test_one_policy_is_no_comparison():
    with pytest.raises(UserError, match="two or more"):
        compare_policies([evaluation("rl", {"judge": flat(1.0)})])


def test_disagreeing_directions_are_the_users_mistake():
    sft = evaluation("s", {"mine": flat(1.0)}, better={"mine": "lower"})
    with pytest.raises(UserError, match=r"better\.mine.*'sft' says lower, 'rl' says higher"):
        compare(None, sft, evaluation("r", {"mine": flat(1.0)}))


def test_the_same_files_give_the_same_file():
    units = {"judge": dict(zip(CARDS, (0.1, 0.5, 0.2, 0.9), strict=True))}
    moved = {"judge": dict(zip(reversed(CARDS), (0.8, 0.7, 0.4, 0.3), strict=True))}
    sft, rl = evaluation("s", units), evaluation("r", moved)
    assert compare(None, sft, rl).as_dict() == compare(None, sft, rl).as_dict()
    # Twenty resamples leave the ends to chance, so another seed must move them.
    ends = [compare(None, sft, rl, resamples=20, seed=seed).rows["judge"].intervals["rl"] for seed in (0, 1)]
    assert ends[0] != ends[1]


def test_notes_name_what_weakens_the_numbers():
    sft = evaluation("s", {"judge": {**flat(1.0), "extra": None}}, settings={"temperature": 0.7, "seed": 0})
    rl = evaluation("r", {"judge": {**flat(1.0), "extra": 2.0}}, settings={"temperature": 1.0, "seed": 0})
    notes = " ".join(compare(None, sft, rl).notes)
    assert "Judge: 1 of 5 cards left out" in notes
    assert "Fewer than 10 units: Judge" in notes
    assert "differ in: temperature." in notes

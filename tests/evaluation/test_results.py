from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlrp.errors import UserError
from rlrp.evaluation.results import read_evaluation, write_evaluation

from .made import evaluation, flat, reply

GOOD = {"policy": "rl", "n_cards": 1, "units": {"judge": {"ahab": 1}}, "better": {"judge": "higher"}}


def test_what_is_written_is_read_back(tmp_path):
    turns = (
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "嗯。"},
        {"role": "user", "content": "?"},
    )
    sample = reply("黛玉", "（拭泪）", prompt=turns, terms={"judge": None}, reasons={"judge": ("no evidence",)})
    made = evaluation("rl", {"judge": flat(None)}, samples=(sample,), settings={"seed": 1})
    write_evaluation(tmp_path / "rl.json", made)
    assert read_evaluation(tmp_path / "rl.json") == made


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"units": {"judge": {"ahab": "good"}}}, "units.judge.ahab"),
        ({"units": {"judge": {"ahab": float("nan")}}}, "units.judge.ahab"),
        ({"better": {"judge": "up"}}, "better.judge"),
        ({"better": {}}, "judge"),
        ({"policy": ""}, "policy"),
        ({"samples": [{"card": "a"}]}, "samples.0"),
        ({"settings": {"lr": float("inf")}}, "settings"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, place):
    path = tmp_path / "e.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(UserError, match=place) as caught:
        read_evaluation(path)
    assert caught.value.file == str(path)


def test_a_comparison_is_not_an_evaluation(tmp_path):
    (tmp_path / "c.json").write_text('{"policies": [], "metrics": {}}')
    with pytest.raises(UserError, match="is a comparison"):
        read_evaluation(tmp_path / "c.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*GOOD, "samples", "settings"]), json_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_other_json_is_read_or_refused_as_the_users_mistake(tmp_path, key, value):
    path = tmp_path / "e.json"
    path.write_text(json.dumps({**GOOD, key: value}))
    try:
        assert read_evaluation(path).policy
    except UserError as error:
        assert error.file == str(path)

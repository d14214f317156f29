"""reward.yaml: what it accepts, what it says of mistakes, and its hash."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_characters import sample

from reward.config import load_reward, read_reward_config, reward_hash
from reward.term_configs import DEFAULT_WEIGHTS
from rlrp.errors import UserError

OWN_TERM = """
from rlrp.protocols import TermScore

class Loud:
    name = "whatever"
    def __init__(self, worth=1.0):
        self.worth = worth
    def score(self, samples):
        return [TermScore(self.worth * s.reply.count("!")) for s in samples]

class Mute:
    name = "mute"
"""


def reward_file(folder: Path, text: str) -> Path:
    path = folder / "reward.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_rule_terms_need_no_training(tmp_path: Path):
    path = reward_file(
        tmp_path,
        "version: 1\nterms:\n  blacklist: {weight: 0.5}\n  length: {weight: 1, en: [4, 9]}\n"
        "  repetition: {weight: 1, free: {within: 0.2}}\n  speaks_for_user: {weight: 0.3}\n",
    )
    composite = load_reward(path)
    assert [term.name for term, _, _ in composite.terms] == ["blacklist", "length", "repetition", "speaks_for_user"]
    # Two words where four are wanted: (2 - 4) / 4, weight 1.
    assert composite.score_one_by_one([sample("en", "Go away.")])[0].total == pytest.approx(-0.5)


def test_a_term_of_ones_own_lies_beside_the_file(tmp_path: Path):
    (tmp_path / "my_terms_a.py").write_text(OWN_TERM)
    path = reward_file(
        tmp_path, "terms:\n  loud: {weight: 2, class: 'my_terms_a:Loud', options: {worth: 0.5}, neutral: 1}\n"
    )
    judgement = load_reward(path).score_one_by_one([sample("en", "Ha! Ha!")])[0]
    assert (judgement.total, judgement.terms) == (2.0, {"loud": 1.0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("terms:\n  blaklist: {weight: 1}\n", "terms.blaklist: unknown term 'blaklist'; did you mean 'blacklist'?"),
        ("terms:\n  zzz: {weight: 1}\n", "unknown term 'zzz'; there are in_character"),
        ("terms:\n  length: {wieght: 1}\n", "terms.length.weight: missing"),
        ("terms:\n  length: {weight: 1, softnes: 2}\n", "terms.length.softnes: unknown key 'softnes'; did you mean"),
        ("terms:\n  length: {weight: heavy}\n", "terms.length.weight: got 'heavy'"),
        ("terms:\n  length: {weight: .nan}\n", "terms.length.weight: got nan"),
        ("terms:\n  length: {weight: 1, gate: {below: 1, cup: 2}}\n", "gate.cap: missing"),
        ("terms:\n  length: {weight: 1, en: [9, 4]}\n", "terms.length.en: got [9, 4]"),
        ("terms:\n  judge: {weight: 0.1, model: j}\n", "terms.judge.weight: got 0.1; the judge is never optimised"),
        ("terms:\n  judge: {weight: 0, model: j}\n", "j: no such directory"),
        ("terms:\n  x: {weight: 1, class: 'no_such_module_here:A'}\n", "cannot import 'no_such_module_here'"),
        ("terms:\n  x: {weight: 1, class: 'my_terms_b:A'}\n", "my_terms_b has no class 'A'"),
        ("terms:\n  x: {weight: 1, class: 'my_terms_b:Mute'}\n", "has no method score"),
        ("terms:\n  x: {weight: 1, class: 'my_terms_b:Loud', options: {size: 1}}\n", "terms.x: cannot be made"),
        ("terms:\n  blacklist: {weight: 1, lists: [gone.jsonl]}\n", "gone.jsonl: cannot read"),
        ("terms: {}\n", "terms: no terms"),
        ("trems: {}\n", "trems: unknown key 'trems'; did you mean 'terms'?"),
        ("version: 2\nterms:\n  length: {weight: 1}\n", "version: got 2"),
        ("terms: [\n", "is not YAML"),
        ("- a\n", "got list"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(text: str, expected: str, tmp_path: Path):
    (tmp_path / "my_terms_b.py").write_text(OWN_TERM)
    path = reward_file(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_reward(path)
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


RULES = "terms:\n  length: {weight: 1}\n  length.short: {weight: 1, en: [1, 2]}\n  blacklist: {weight: 0.5}\n"


def test_overrides_reach_terms_with_dots_and_add_terms(tmp_path: Path):
    path = reward_file(tmp_path, RULES)
    overrides = ["terms.length.weight=0", "terms.length.short.en=[3, 4]", "terms.blacklist.gate.below=-0.4"]
    overrides += ["terms.blacklist.gate.cap=0", "terms.scene.weight=0.2", "terms.length.weight = 2"]
    configs = read_reward_config(path, overrides)
    assert {name: config.weight for name, config in configs.items()} == {
        "length": 2,
        "length.short": 1,
        "blacklist": 0.5,
        "scene": 0.2,
    }
    assert configs["length.short"].en == (3, 4)
    assert configs["blacklist"].gate is not None and configs["blacklist"].gate.cap == 0
    assert [weight for _, weight, _ in load_reward(path, overrides).terms] == [2, 1, 0.5, 0.2]
    assert read_reward_config(path)["length"].weight == 1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("terms.lenght.weight=0", "--set: terms.lenght: unknown term 'lenght'; did you mean 'length'?"),
        ("terms.length.shrot.weight=0", "--set: terms.length.shrot: unknown key 'shrot'"),
        ("terms.length.wieght=0", "--set: terms.length.wieght: unknown key 'wieght'; did you mean 'weight'?"),
        ("terms.length.weight=heavy", "--set: terms.length.weight: got 'heavy'"),
        ("terms.length.weight.x=1", "--set terms.length.weight.x: 'weight' is not a section"),
        ("terms.length.normalise=groop", "--set: terms.length.normalise: got 'groop'"),
        ("term.length.weight=0", "--set: term: unknown key 'term'; did you mean 'terms'?"),
        ("weight=0", "--set: weight: unknown key 'weight'; there are version and terms"),
        ("terms.judge.weight=0", "--set: terms.judge.model: missing"),
        ("terms=3", "--set: terms: no terms"),
        ("version=2", "--set: version: got 2, this program reads 1"),
        ("terms.length", "--set: got 'terms.length', expected KEY=VALUE such as terms.length.weight=0"),
        ("terms.length.en=[", "--set terms.length.en: '[' is not a YAML value"),
    ],
)
def test_a_wrong_override_is_told_with_the_nearest_key(override: str, expected: str, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        read_reward_config(reward_file(tmp_path, RULES), [override])
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_an_override_that_only_the_term_can_refuse_is_to_blame_too(tmp_path: Path):
    path = reward_file(tmp_path, RULES)
    with pytest.raises(UserError, match=r"^--set: terms\.length\.short\.en: got \[9, 4\]"):
        load_reward(path, ["terms.length.short.en=[9, 4]"])
    with pytest.raises(UserError, match=r"reward\.yaml: terms\.length\.en: got \[9, 4\]"):
        load_reward(reward_file(tmp_path, "terms:\n  length: {weight: 1, en: [9, 4]}\n"), ["terms.length.weight=0"])


def test_an_override_takes_no_blame_for_the_files_own_mistake(tmp_path: Path):
    with pytest.raises(UserError, match=r"reward\.yaml: terms\.blacklist\.lanes"):
        read_reward_config(
            reward_file(tmp_path, "terms:\n  length: {weight: 1}\n  blacklist: {weight: 1, lanes: 2}\n"),
            ["terms.length.weight=0"],
        )


def test_no_reward_has_the_further_terms_by_itself():
    assert not {"scene", "over_cooperation", "copies_card", "people"} & set(DEFAULT_WEIGHTS)


def test_the_hash_follows_settings_and_files_and_not_the_folder(tmp_path: Path):
    text = "terms:\n  blacklist: {weight: 0.5, lists: [own.jsonl]}\n"
    hashes = []
    for name, line, weight in (("a", "1", "0.5"), ("b", "1", "0.5"), ("c", "2", "0.5"), ("d", "1", "0.6")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "own.jsonl").write_text(line)
        hashes.append(reward_hash(reward_file(folder, text.replace("0.5", weight))))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_settings_have_their_defaults(tmp_path: Path):
    config = read_reward_config(reward_file(tmp_path, "terms:\n  length: {weight: 0.3}\n"))["length"]
    assert (config.weight, config.neutral, config.normalise, config.gate) == (0.3, 0.0, "none", None)

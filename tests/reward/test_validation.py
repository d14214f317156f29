"""``rlrp reward validate``: its figures against brute force, its readers on files as they should not be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from reward.composite import CompositeReward, TermSettings
from reward.config import load_reward
from reward.dissonance.score import DissonanceTerm
from reward.guards import LengthTerm
from reward.validation.best_of import JUDGE, Drawn, falls, measure_best_of
from reward.validation.contradiction import measure_contradiction
from reward.validation.dissonance import formal_replies, matched_pairs, measure_dissonance
from reward.validation.public_data import cdconv, charactereval, dnli, kvpi
from reward.validation.run import Request, validate
from reward.validation.speed import measure_speed
from rlrp.cards import CharacterCard
from rlrp.cli import main
from rlrp.dialogue.types import Message, Sample
from rlrp.errors import UserError
from rlrp.protocols import TermScore

AHAB = CharacterCard(name="Ahab", description="Captain of the whaler Pequod.")
ASKED = (Message("user", "Shall we turn back?"),)


class Numbered:
    """Gives the number that a reply begins with, by a table."""

    def __init__(self, name: str, table: dict[str, float | None]):
        self.name, self._table = name, table

    def score(self, samples: list[Sample]) -> list[TermScore]:
        return [TermScore(self._table[sample.reply.split()[0]]) for sample in samples]


def drawn(*replies: str) -> Drawn:
    return Drawn(AHAB, ASKED, replies, (True,) * len(replies))


def test_best_of_n_is_the_mean_over_all_ways_to_draw_n() -> None:
    by, judge = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}, {"a": 1.0, "b": 0.2, "c": 0.5, "d": 0.6}
    composite = CompositeReward(
        [(Numbered("by", dict(by)), 1.0, TermSettings()), (Numbered(JUDGE, dict(judge)), 0.0, TermSettings())]
    )
    found = measure_best_of(composite, [drawn("a I", "b I am here", "c", "d my hat")])
    assert found["n"] == [1, 2, 4]
    for at, n in enumerate(found["n"]):
        best = [max(chosen, key=lambda reply: by[reply]) for chosen in itertools.combinations("abcd", n)]
        assert found["by"]["by"][JUDGE][at] == pytest.approx(np.mean([judge[reply] for reply in best]), abs=1e-4)
    assert found["by"]["by"]["total"][-1] == 0.4 and found["by"]["by"]["self_mentions"][0] == 0.75


def test_a_score_that_is_gamed_is_named() -> None:
    table = {str(n): float(n) for n in range(8)}
    composite = CompositeReward(
        [
            (Numbered("gamed", dict(table)), 1.0, TermSettings()),
            (Numbered("fair", {key: -value for key, value in table.items()}), 0.0, TermSettings()),
            (Numbered("silent", dict.fromkeys(table)), 0.0, TermSettings()),
            (Numbered(JUDGE, {key: -value for key, value in table.items()}), 0.0, TermSettings()),
        ]
    )
    found = measure_best_of(composite, [drawn(*table), drawn(*reversed(table))])
    assert falls(found) == ["gamed", "total"]
    assert found["by"]["fair"]["judge_gain"]["value"] == 3.5
    # A score that says nothing chooses any reply: nothing changes on average.
    assert found["by"]["silent"][JUDGE] == [-3.5, -3.5, -3.5, -3.5]


def test_the_shipped_pairs_are_told_apart_and_formal_characters_left_alone() -> None:
    found = measure_dissonance(DissonanceTerm())
    for language in ("zh", "en"):
        assert found["pairs"][language]["d"]["value"] >= 0.95
        assert abs(found["pairs"][language]["length"]["value"] - 0.5) < 0.1  # the pairs are even in length
        assert found["names"][language]["mean_change"] < 0.02 and found["names"][language]["names"] == 20
    assert found["formal"]["all"]["value"] <= 0.05
    assert found["zhang_fei"]["passed"]


def test_the_hand_written_sets_are_whole() -> None:
    assert [len(matched_pairs(language)) for language in ("zh", "en")] == [100, 100]
    replies = formal_replies()
    assert len(replies) == 192 and len({sample.reply for _, _, sample in replies}) == 192


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_of_contradiction_are_read(tmp_path: Path) -> None:
    row = {"u1": "你养狗吗？", "b1": "养的。", "u2": "它叫什么？", "b2": "你的狗叫旺财。"}
    lines = [json.dumps({**row, "label": label}, ensure_ascii=False) for label in (0, 1, 2, 3)]
    write(tmp_path / "cdconv" / "cdconv.txt", "\n".join(lines))
    assert [item.good for item in cdconv(tmp_path)] == [True, False]
    profile = "{'constellation': 水瓶座, 'loc': 湖北 潜江, 'gender': 'female'} <SEP> "
    write(tmp_path / "kvpi" / "KvPI_test.txt", "\n".join(f"{profile}我在潜江呀\t{n}\t1" for n in range(3)))
    read = kvpi(tmp_path)
    assert [item.good for item in read] == [True, False]
    assert read[0].sample.card.description == "星座：水瓶座；所在地：湖北 潜江；性别：女"
    persona = "i have two cats .</s>i have a cat .</s>"
    write(
        tmp_path / "rcdg_dnli_personachat" / "nli-valid.txt",
        "\n".join(persona + label for label in ("positive", "negative", "neutral")),
    )
    assert [item.good for item in dnli(tmp_path)] == [True, False]


@pytest.mark.parametrize(
    ("read", "file", "text", "told"),
    [
        (cdconv, "cdconv/cdconv.txt", '{"u1": "a"}', r"cdconv\.txt: line 1: has no 'b1'"),
        (kvpi, "kvpi/KvPI_test.txt", "no separator\t0", r"KvPI_test\.txt: line 1: is no row of KvPI"),
        (
            dnli,
            "rcdg_dnli_personachat/nli-valid.txt",
            "a</s>b</s>maybe",
            r"nli-valid\.txt: line 1: is no row of Dialogue",
        ),
        (lambda folder: list(charactereval(folder)), "charactereval/test_data.jsonl", "[{}]", r"\[0\]: has no text"),
    ],
)
def test_other_files_are_refused_by_line(tmp_path: Path, read: object, file: str, text: str, told: str) -> None:
    write(tmp_path / file, text)
    with pytest.raises(UserError, match=told):
        read(tmp_path)


def test_what_labels_teach_is_measured_on_profiles_left_out(tmp_path: Path) -> None:
    lines = []
    for n in range(60):
        profile = f"i live in town number {n} ."
        lines += [f"{profile}</s>i like town {n} a lot .</s>positive", f"{profile}</s>i never was there .</s>negative"]
    write(tmp_path / "rcdg_dnli_personachat" / "nli-valid.txt", "\n".join(lines))
    composite = CompositeReward([(LengthTerm(), 1.0, TermSettings())])
    found = measure_contradiction(composite, tmp_path, {})["dnli: contradicts the persona"]
    assert found["n"] == 120 and found["learnt"]["style and n-grams"]["value"] > 0.95
    assert found["learnt"]["style and n-grams"]["accuracy"] > 0.9 and found["length"]["value"] >= 0.5


def test_everything_is_written_and_what_was_left_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = write(tmp_path / "reward.yaml", "terms: {dissonance: {weight: 0.5}, length: {weight: 0.3}}")
    replies = ("I will have him, sir.", "Ahab is a captain who was born in 1785.", "Aye!", "Back? You jest, man.")
    out = tmp_path / "validation"
    report = validate(Request(reward, out, drawn=[drawn(*replies)]))
    assert json.loads((out / "validation.json").read_text(encoding="utf-8"))["hash"] == report["hash"]
    assert (out / "best_of.png").stat().st_size > 10_000
    assert set(report["left_out"]) == {"held_out", "transfer", "contradiction"}
    shown = capsys.readouterr().out
    assert "Zhang Fei's biography" in shown and "not measured: contradiction (needs --data)" in shown
    assert report["speed"]["per_second"]["dissonance"] > 0


def test_speed_counts_replies_in_one_process_and_in_all(tmp_path: Path) -> None:
    path = write(tmp_path / "reward.yaml", "terms: {blacklist: {weight: 0.5}}")
    shared = measure_speed(load_reward(path), [Sample(AHAB, ASKED, "As an AI, I sail.")] * 20, path)
    assert set(shared["on_all_cores"]) == {"blacklist"} and shared["on_all_cores"]["blacklist"] > 0
    found = measure_speed(CompositeReward([(LengthTerm(), 1.0, TermSettings())]), [Sample(AHAB, ASKED, "Aye.")] * 50)
    assert found["replies"] == 50 and found["per_second"]["length"] > 100


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "run_dir={tmp}/none"], "reward.yaml: no such file; `rlrp reward train` makes one"),
        (["--reward", "{tmp}/reward.yaml", "--data", "{tmp}/nowhere"], "nowhere: --data: no such folder"),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    write(tmp_path / "reward.yaml", "terms: {length: {weight: 0.3}}")
    given = [part.format(tmp=tmp_path) for part in arguments]
    for config in ("experiments/reward_characterbench.yaml", "experiments/demo.yaml"):
        assert main(["reward", "validate", config, *given]) == 2
        assert told in " ".join(capsys.readouterr().err.split()).replace("- ", "-")

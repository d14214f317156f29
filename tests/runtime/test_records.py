"""What a run writes, and what a resumed run takes back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rlrp.protocols import Judgement
from rlrp.rl.learner import StepReport
from rlrp.runtime.groups import Group
from rlrp.runtime.ledger import Entry, check_ledger, keep_steps, read_ledger
from rlrp.runtime.loop import Batch
from rlrp.runtime.records import RunLog, read_metrics, reward_metrics, write_samples

from .made import conversation, judged, prompt

# Lengths 1, 2, 3: "up" grows with them, "down" falls, "flat" does not care, "rare" speaks once, "mute" never.
TERMS: list[dict[str, float | None]] = [
    {"up": 1.0, "down": 6.0, "flat": 0.5, "rare": None, "mute": None, "judge": 0.2},
    {"up": 2.0, "down": 4.0, "flat": 0.5, "rare": 3.0, "mute": None, "judge": 0.4},
    {"up": 3.0, "down": 2.0, "flat": 0.5, "rare": None, "mute": None, "judge": 0.6},
]


def group(id: str = "p0") -> Group:
    return judged([0.0, 1.0, 2.0], TERMS, id)


def write(folder: Path, steps: range, start: int = 0, *, loss: float = 0.5) -> None:
    log = RunLog(folder, start)
    for step in steps:
        batch = Batch(
            [group(f"{step}/0"), group(f"{step}/1")],
            [Entry(2 * step + i, f"{step}/{i}", step, 1, "trained") for i in range(2)],
            {"dropped": 0.0},
        )
        log.write(step, batch, StepReport({"loss": loss, "kl": 0.1}), {"learn": 2.0})
    log.close()


def test_reward_metrics_by_hand() -> None:
    equal = judged([5.0, 5.0, 5.0], TERMS)
    equal.equal = True
    row = reward_metrics([group(), equal])
    # Totals 0 1 2 5 5 5: mean 3, variance (9 + 4 + 1 + 4 + 4 + 4) / 6.
    assert row["reward/total"] == 3
    assert row["reward/total_std"] == pytest.approx((26 / 6) ** 0.5)
    assert (row["reply_tokens"], row["finished"], row["equal_groups"]) == pytest.approx((2, 2 / 3, 0.5))
    assert (row["reward/up"], row["reward/up_std"]) == pytest.approx((2, (2 / 3) ** 0.5))
    assert row["length_correlation/up"] == pytest.approx(1)
    assert row["length_correlation/down"] == pytest.approx(-1)
    assert row["length_correlation/flat"] == 0
    # Abstaining is not scoring 0: the mean is of those that spoke.
    assert row["reward/rare"] == 3
    assert row["abstained/rare"] == pytest.approx(2 / 3)
    assert row["abstained/mute"] == 1
    assert "reward/mute" not in row
    assert row["judge"] == row["reward/judge"] == pytest.approx(0.4)


def test_a_line_a_step(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    row = read_metrics(tmp_path / "metrics.jsonl")[1]
    assert (row["loss"], row["kl"], row["reward/total"], row["seconds/learn"]) == (0.5, 0.1, 1.0, 2.0)


def test_a_number_that_is_none_stays_valid_json(tmp_path: Path) -> None:
    write(tmp_path, range(1), loss=math.nan)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] is None


def test_each_step_is_shown(tmp_path: Path) -> None:
    shown: list[int] = []
    log = RunLog(tmp_path, 0, lambda row: shown.append(row["step"]))
    log.write(0, Batch([group()], []), StepReport({}), {})
    log.close()
    assert shown == [1]


def test_every_sample_with_every_term(tmp_path: Path) -> None:
    write(tmp_path, range(1))
    rows = pq.read_table(tmp_path / "samples" / "step-000001.parquet").to_pylist()
    assert len(rows) == 6
    row = rows[1]
    assert (row["step"], row["prompt_id"], row["card"]) == (1, "0/0", "daiyu")
    assert json.loads(row["messages"]) == [{"role": "user", "content": "你是谁？"}]
    assert (row["completion"], row["tokens"], row["finish"]) == ("reply 1", 2, "stop")
    assert (row["total"], row["advantage"], row["kl"]) == (1.0, 0.0, 0.1)
    assert (row["term/up"], row["term/rare"], row["term/mute"]) == (2.0, 3.0, None)
    assert rows[0]["term/rare"] is None  # null, not 0
    assert json.loads(row["reasons"]) == {"rule": ["said 1"]}
    assert json.loads(row["parts"]) == {"rule": {"hits": 1.0}}


def talks() -> Group:
    """Two conversations, of three replies and of one that was broken off."""
    group = Group(prompt(), [conversation("a", "b", "c", judge="every"), conversation("d-", judge="every")])
    group.take([Judgement(total, {"rule": total}) for total in (0.0, 1.0, 5.0, -1.0)])
    group.advantages, group.kl = [1.0, -1.0], [0.0, 0.0]
    return group


def test_conversations_are_counted_by_reply() -> None:
    row = reward_metrics([talks()])
    # 6 and 2 tokens of the policy's in 4 replies; totals 2 and -1; by turn 0 and -1, then 1, then 5.
    assert (row["reply_tokens"], row["turns"], row["reward/total"], row["finished"]) == (2, 2, 0.5, 0.5)
    assert (row["reward/turn_1"], row["reward/turn_2"], row["reward/turn_3"]) == (-0.5, 1.0, 5.0)
    assert "turns" not in reward_metrics([group()])


def test_the_samples_show_whole_conversations(tmp_path: Path) -> None:
    write_samples(tmp_path / "s.parquet", 0, [talks()])
    first, second = pq.read_table(tmp_path / "s.parquet").to_pylist()
    said = [(m["role"], m["content"]) for m in json.loads(first["messages"])]
    assert said == [("user", "你是谁？"), ("assistant", "a"), ("user", "go on"), ("assistant", "b"), ("user", "and?")]
    assert (first["completion"], first["tokens"], first["total"], first["turn_totals"]) == (
        "c",
        6,
        2.0,
        [0.0, 1.0, 5.0],
    )
    assert (second["completion"], second["tokens"], second["turn_totals"]) == ("d-", 2, [-1.0])
    assert len(json.loads(second["messages"])) == 1
    last = talks()
    last.completions = [conversation("a", "b"), conversation("c")]
    last.take([Judgement(1.0, {}), Judgement(2.0, {})])
    write_samples(tmp_path / "s.parquet", 0, [last])
    assert [row["turn_totals"] for row in pq.read_table(tmp_path / "s.parquet").to_pylist()] == [[None, 1.0], [2.0]]


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path: Path) -> None:
    write(tmp_path, range(4), loss=0.5)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 5, "lo')  # killed in the middle of a line
    (tmp_path / "samples" / ".step-000005.parquet.ab12").touch()  # or of a file
    (tmp_path / ".metrics.jsonl.ab12").touch()
    write(tmp_path, range(2, 3), start=2, loss=0.7)
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.7),
    ]
    entries = read_ledger(tmp_path)
    assert [(step, entry.draw) for step, entry in entries] == [(1, 0), (1, 1), (2, 2), (2, 3), (3, 4), (3, 5)]
    assert check_ledger(entries) == []
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [f"step-00000{n}.parquet" for n in (1, 2, 3)]
    assert not list(tmp_path.glob(".*"))


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(4), loss=0.5)
    write(tmp_path, range(2, 4), start=2, loss=0.7)
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(e.step, round(e.value, 3)) for e in board.Scalars("loss")] == [(1, 0.5), (2, 0.5), (3, 0.7), (4, 0.7)]
    assert len(board.Scalars("reward/up")) == 4


def test_a_run_from_the_start_keeps_nothing_of_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    RunLog(tmp_path, 0).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    assert list((tmp_path / "samples").iterdir()) == []


def test_keep_steps_without_a_file(tmp_path: Path) -> None:
    keep_steps(tmp_path / "metrics.jsonl", 3)
    assert not (tmp_path / "metrics.jsonl").exists()

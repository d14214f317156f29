"""What a run writes as it goes: a line a step, every sample with every term, curves for its trackers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlrp.files import atomic_path, read_jsonl
from rlrp.rl.learner import StepReport
from rlrp.runtime.groups import Group
from rlrp.runtime.ledger import Ledger, keep_steps
from rlrp.runtime.loop import Batch
from rlrp.runtime.trackers import Trackers, finite


class RunLog:
    """Appends to a run directory; on resume, lines of steps that will be done again are dropped first."""

    def __init__(self, folder: Path, start: int = 0, show: Any = None, trackers: Trackers | None = None):
        self.folder, self.show = folder, show
        self.path = folder / "metrics.jsonl"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        keep_steps(self.path, start)
        for path in (folder / "samples").glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) > start:
                path.unlink()
        for path in (*folder.glob(".*.jsonl.*"), *(folder / "samples").glob(".step-*")):
            path.unlink()  # of a process that was killed while it wrote
        self.stream = self.path.open("a", encoding="utf-8")
        self.ledger = Ledger(folder, start)
        self.trackers = trackers or Trackers(["tensorboard"], folder, start=start)

    def write(self, step: int, batch: Batch, report: StepReport, seconds: dict[str, float]) -> None:
        groups = batch.groups
        row = {"step": step + 1, **report.metrics, **reward_metrics(groups), **batch.metrics}
        row |= {f"seconds/{name}": value for name, value in seconds.items()}
        self.ledger.write(step, batch.entries)
        self.stream.write(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n")
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.trackers.log(step + 1, finite({name: value for name, value in row.items() if name != "step"}))
        write_samples(self.folder / "samples" / f"step-{step + 1:06d}.parquet", step, groups)
        if self.show:
            self.show(row)

    def close(self) -> None:
        """Every line was flushed as it was written, so what closing cannot write, on a full disk, was complained of."""
        for stream in (self.stream, self.ledger, self.trackers):
            with suppress(OSError):
                stream.close()


def reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Total and every term: mean, spread, abstentions, correlation with length; groups that teach nothing."""
    judgements = [j for group in groups for j in group.judgements]
    completions = [c for group in groups for c in group.completions]
    lengths = [float(c.spoken_tokens) for c in completions]
    replies = [len(c.turns) or 1 for c in completions]
    row = {
        "reward/total": fmean(j.total for j in judgements),
        "reward/total_std": pstdev(j.total for j in judgements),
        "reply_tokens": sum(lengths) / sum(replies),
        "finished": fmean(float(c.finish == "stop") for c in completions),
        "equal_groups": fmean(float(group.equal) for group in groups),
    }
    if any(c.turns for c in completions):
        row["turns"] = fmean(replies)
        row |= _turn_totals(groups)
    if punished := [value for group in groups for value in group.overlong]:
        row["reward/overlong"] = fmean(punished)
        row["overlong"] = fmean(float(value < 0) for value in punished)
    for name in judgements[0].terms:
        pairs = [(v, n) for j, n in zip(judgements, lengths, strict=True) if (v := j.terms[name]) is not None]
        row[f"abstained/{name}"] = 1.0 - len(pairs) / len(judgements)
        if pairs:
            values = [value for value, _ in pairs]
            row[f"reward/{name}"] = fmean(values)
            row[f"reward/{name}_std"] = pstdev(values)
            row[f"length_correlation/{name}"] = _correlation(pairs)
    if "reward/judge" in row:
        row["judge"] = row["reward/judge"]
    return row


def _turn_totals(groups: Sequence[Group]) -> dict[str, float]:
    """The mean total of the first replies that were judged, of the second, ..."""
    found: dict[str, list[float]] = {}
    for totals in (totals for group in groups for totals in group.turn_totals):
        for turn, total in enumerate(totals, start=1):
            if total is not None:
                found.setdefault(f"reward/turn_{turn}", []).append(total)
    return {name: fmean(values) for name, values in sorted(found.items())}


def write_samples(path: Path, step: int, groups: Sequence[Group]) -> None:
    """One parquet row per completion: text, tokens, advantage, KL, and a column per term (null: abstained).

    Of a conversation ``messages`` are all that was said before its last reply, which is ``completion``; ``tokens`` are
    the policy's, and ``turn_totals`` what each reply was given (null: not judged).
    """
    rows: list[dict[str, Any]] = []
    for group in groups:
        for i, (completion, judgement) in enumerate(zip(group.completions, group.judgements, strict=True)):
            last = group.replies(completion)[-1]
            rows.append(
                {
                    "step": step + 1,
                    "prompt_id": group.prompt.id,
                    "card": group.prompt.card_id,
                    "messages": json.dumps([m.as_dict() for m in last.messages], ensure_ascii=False),
                    "completion": completion.text,
                    "finish": completion.finish,
                    "tokens": completion.spoken_tokens,
                    "total": judgement.total,
                    **({"turn_totals": group.turn_totals[i]} if completion.turns else {}),
                    "advantage": group.advantages[i],
                    "kl": group.kl[i],
                    **{f"term/{name}": value for name, value in judgement.terms.items()},
                    "parts": json.dumps(judgement.parts, ensure_ascii=False),
                    "reasons": json.dumps(judgement.reasons, ensure_ascii=False),
                }
            )
    names = list(rows[0])
    columns = {n: [row[n] for row in rows] for n in names}
    arrays = {n: pa.array(v, pa.float64()) if n.startswith("term/") else pa.array(v) for n, v in columns.items()}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(arrays), temporary)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    xs, ys = zip(*pairs, strict=True)
    sx, sy = pstdev(xs), pstdev(ys)
    if sx == 0 or sy == 0:
        return 0.0
    mx, my = fmean(xs), fmean(ys)
    return float(fmean((x - mx) * (y - my) for x, y in pairs) / (sx * sy))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

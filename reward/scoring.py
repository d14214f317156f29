"""``rlrp reward score``: replies from a file in, judgements out, a batch in memory at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from reward.config import load_reward
from reward.sample_files import is_parquet, read_sample_lines
from rlrp.errors import UserError
from rlrp.files import atomic_path
from rlrp.progress import progress
from rlrp.protocols import Judgement

Write = Callable[[list[dict[str, Any]]], None]


def score_file(
    reward_yaml: str | Path,
    in_path: str | Path,
    out_path: str | Path,
    batch: int = 64,
    overrides: Sequence[str] = (),
) -> int:
    """Score every line of a file; the output is whole or not there, and in the same order.

    A line is ``{"id", "card": {card object, or its plain "name" and "description"}, "messages": [{"role", "content"}],
    "reply"}``; a line out is ``{"id", "total", "terms": {name: number or null}, "reasons": {name: [text]}}``. Samples
    have no group here, so that an abstention is imputed by the term's ``neutral`` value and nothing is normalised by
    ``character`` or ``running``. Names that end in
    ``.parquet`` are parquet on either side; there the columns out are ``id`` (as text), ``total``, ``terms.NAME``
    and ``reasons`` (JSON).

    Args:
        batch: samples judged, and held in memory, at a time.
        overrides: ``terms.NAME.OPTION=VALUE``, in place of what the reward's file says.

    Returns:
        The number of samples.

    Raises:
        UserError: a line that cannot be used (file and line are named), or a reward that cannot be loaded.
    """
    if batch < 1:
        raise UserError(f"got {batch}, expected at least 1", place="batch")
    composite = load_reward(reward_yaml, overrides)
    lines = read_sample_lines(in_path)
    started, count = time.perf_counter(), 0
    writer = _parquet_writer if is_parquet(out_path) else _jsonl_writer
    with (
        atomic_path(out_path) as temporary,
        writer(temporary, [term.name for term, _, _ in composite.terms]) as write,
        progress("replies scored", None) as advance,
    ):
        while part := list(islice(lines, batch)):
            judgements = composite.score_one_by_one([line.sample for line in part])
            write([_row(line.identifier, judged) for line, judged in zip(part, judgements, strict=True)])
            count += len(part)
            advance(len(part))
    _say(count, time.perf_counter() - started)
    return count


@contextmanager
def _jsonl_writer(path: Path, terms: list[str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as stream:
        yield lambda rows: stream.writelines(
            json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
        )


@contextmanager
def _parquet_writer(path: Path, terms: list[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [("id", pa.string()), ("total", pa.float64()), *((f"terms.{name}", pa.float64()) for name in terms)]
    schema = pa.schema([*columns, ("reasons", pa.string())])
    with pq.ParquetWriter(path, schema) as stream:

        def write(rows: list[dict[str, Any]]) -> None:
            flat = [
                {"id": str(row["id"]), "total": row["total"], "reasons": json.dumps(row["reasons"], ensure_ascii=False)}
                | {f"terms.{name}": value for name, value in row["terms"].items()}
                for row in rows
            ]
            stream.write_table(pa.Table.from_pylist(flat, schema=schema))

        yield write


def _row(identifier: str | int, judgement: Judgement) -> dict[str, Any]:
    return {
        "id": identifier,
        "total": judgement.total,
        "terms": judgement.terms,
        "reasons": {name: list(reasons) for name, reasons in judgement.reasons.items()},
    }


def _say(count: int, seconds: float) -> None:
    from rich.console import Console

    rate = f"{count / seconds:.0f} a second" if seconds > 0 else "no time"
    Console(stderr=True).print(f"scored {count} replies in {seconds:.1f} s ({rate})", highlight=False)

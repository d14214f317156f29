"""The ledger: it tells when something was learnt from twice or never."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlrp.runtime.ledger import Entry, Ledger, Outcome, check_ledger, read_ledger


def entries(*rows: tuple[int, int, Outcome]) -> list[tuple[int, Entry]]:
    return [(step, Entry(draw, f"p{draw}", step - 1, 1, outcome)) for step, draw, outcome in rows]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == []
    ledger = Ledger(tmp_path)
    lost = Entry(7, "林黛玉/u1", 0, 3, "quarantined", "rollout: died")
    ledger.write(0, [lost])
    ledger.close()
    assert read_ledger(tmp_path) == [(1, lost)]


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        ([], []),
        ([(1, 0, "trained"), (1, 1, "equal"), (2, 2, "quarantined"), (2, 3, "trained")], []),
        ([(1, 0, "trained"), (2, 0, "trained")], ["draw 0 was used up 2 times"]),
        ([(1, 0, "trained"), (1, 2, "trained")], ["draw 1 is missing"]),
        ([(1, 0, "trained"), (3, 1, "trained")], ["step 2 is missing"]),
        ([(1, 0, "dropped"), (2, 0, "trained"), (1, 1, "trained")], []),
        ([(1, 0, "dropped"), (1, 1, "trained")], ["draw 0 is missing"]),
    ],
)
def test_gaps_and_doubles(rows: list[tuple[int, int, Outcome]], problems: list[str]) -> None:
    assert check_ledger(entries(*rows)) == problems


def test_the_last_draws_may_still_be_on_their_way() -> None:
    rows = entries((1, 0, "trained"), (1, 2, "trained"), (2, 5, "trained"))
    assert check_ledger(rows, ahead=3) == []  # 1, 3 and 4, however early they were drawn
    assert check_ledger(rows, ahead=2) == [f"draw {draw} is missing" for draw in (1, 3, 4)]

"""Several workers that learn together, each in a process of its own, on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rlrp.rl.team import Team, join, open_meeting


def on_team(size: int, work: Callable[..., Any], *args: Any, timeout_s: float = 400) -> list[Any]:
    """What ``work(team, *args)`` returns in each of ``size`` processes that have joined."""
    meeting = open_meeting("127.0.0.1", size)
    with ProcessPoolExecutor(size, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_member, meeting.port, rank, size, work, args) for rank in range(size)]
        return [future.result(timeout_s) for future in futures]


def _member(port: int, rank: int, size: int, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    import torch

    torch.set_num_threads(1)
    team: Team = join(("127.0.0.1", port), rank, size, "cpu")
    return work(team, *args)

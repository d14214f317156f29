"""The workers that learn together, as one of them sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Team:
    """One of ``size`` workers; if there are more, they have joined a process group."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this worker writes, sends and reports for all."""
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """Every worker's item, in order of the workers, on all of them."""
        items = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(items, item)
        return items


def open_meeting(host: str, size: int) -> TCPStore:
    """Where ``size`` workers meet: a free port of this machine, held from now on (``store.port``)."""
    return TCPStore(host, 0, size, is_master=True, wait_for_workers=False)


def join(meeting: TCPStore | tuple[str, int], rank: int, size: int, device: str) -> Team:
    """Join the others; a worker that did not open the meeting knows its host and port.

    No environment variable is read for it, and none is set.
    """
    if isinstance(meeting, tuple):
        meeting = TCPStore(meeting[0], meeting[1], size, is_master=False)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=meeting, rank=rank, world_size=size)
    return Team(rank, size)

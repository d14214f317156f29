"""``rlrp`` with a fault in one kind of its workers: ``python faulty.py FAULT train ...``."""

from __future__ import annotations

import sys

from rlrp import cli


def main() -> int:
    cli._quiet_libraries()  # before anything imports Ray
    import faulty_workers

    from rlrp.runtime import learners, pools

    fault = getattr(faulty_workers, sys.argv[1])
    if issubclass(fault, pools.RolloutWorker):
        pools.RolloutWorker = fault  # type: ignore[misc]
    else:
        learners.Seat = fault  # type: ignore[misc]
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    raise SystemExit(main())

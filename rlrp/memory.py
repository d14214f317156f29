"""Peak memory of this process and everything it started."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil

from rlrp.files import read_json, write_json


class PeakMemory:
    """Samples the proportional set size of the process tree twice a second; shared pages count once."""

    def __init__(self, period: float = 0.5):
        self.period, self.peak = period, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def kept_peak(self, path: Path) -> float:
        """The peak in GB, or a larger one that an earlier part of the same run left in ``path``."""
        before = float(read_json(path)["peak_memory_gb"]) if path.exists() else 0.0
        peak = max(before, self.peak / 1e9)
        write_json(path, {"peak_memory_gb": peak})
        return peak

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(self.period):
            self.peak = max(self.peak, sum(_used(process) for process in [me, *me.children(recursive=True)]))


def _used(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0

"""Peak memory of this process and everything it started, and what the allocator keeps."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from rlrp.files import read_json, write_json

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Have glibc keep freed tensors' memory for the next ones, where it would hand it back and fetch it again, page by
    page, at every operation: a fifth of a CPU's time in sampling. Elsewhere than on Linux with glibc nothing happens.
    """
    mallopt = _libc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def release_memory() -> None:
    """Hand back what a finished stage no longer needs: other processes are about to want it."""
    gc.collect()
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


def _libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


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

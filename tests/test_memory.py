"""Peak memory of this process and its children."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rlrp.files import read_json
from rlrp.memory import PeakMemory

HUNGRY = "import sys; x = bytearray(b'x' * 150_000_000); print('full', flush=True); sys.stdin.read()"


def test_a_childs_memory_counts(tmp_path: Path) -> None:
    with PeakMemory(period=0.02) as memory:
        time.sleep(0.15)
        alone = memory.peak
        with subprocess.Popen([sys.executable, "-c", HUNGRY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.15)
            child.communicate(b"")
    assert alone > 1_000_000
    assert memory.peak - alone > 120_000_000

    path = tmp_path / "memory.json"
    assert memory.kept_peak(path) == memory.peak / 1e9
    later = PeakMemory()
    later.peak = 1
    assert later.kept_peak(path) == memory.peak / 1e9  # an earlier part of the run needed more
    assert read_json(path) == {"peak_memory_gb": memory.peak / 1e9}

"""A disk that is full: the run goes on without checkpoints or ends with one line, and goes on after room was made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import MakeRun
from .runs import MANY, Run, check_whole, final_state, records

pytestmark = pytest.mark.faults


_MARGIN = 16 << 20
"""Bytes that a run may write between looking at its room and taking it away; a file takes them then."""


class Disk:
    """A file system in memory whose room can be taken away and given back."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g", "rlrp-faults", folder], check=True)

    def fill(self) -> None:
        """No byte more fits."""
        used = os.statvfs(self.folder)
        blocks = used.f_blocks - used.f_bfree
        self._resize(blocks * used.f_frsize + _MARGIN)
        ballast = self.folder / "ballast"
        with suppress(OSError), ballast.open("ab") as stream:
            while True:
                stream.write(bytes(4096))
                stream.flush()

    def free(self) -> None:
        (self.folder / "ballast").unlink()
        self._resize(3 << 30)

    def _resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    try:
        mounted = Disk(tmp_path / "disk")
    except subprocess.CalledProcessError:
        pytest.skip("this machine lets nobody mount a file system")
    yield mounted
    mounted.unmount()


def test_a_full_disk_ends_the_run_in_one_line_and_room_lets_it_go_on(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run], disk: Disk
) -> None:
    run = make_run(*MANY, f"run_dir={disk.folder / 'run'}")
    run.folder = disk.folder / "run"
    run.start()
    run.wait_for_step(3)
    disk.fill()
    run.end(2)
    last = run.said.splitlines()[-1]
    assert last.startswith("rlrp: ") and "No space left on device" in last and "run the same command again" in last
    assert "Traceback" not in run.said
    kept = final_state(run)["step"]
    assert kept >= 2
    # Still full: nothing starts, and nothing is lost.
    run.start().end(2)
    assert "of disk space" in run.said.splitlines()[-1]
    assert final_state(run)["step"] == kept
    disk.free()
    run.start().end()
    check_whole(run, 12)
    whole = undisturbed(tiny, *MANY)
    assert final_state(run) == final_state(whole)
    assert records(run) == records(whole)


def test_room_that_comes_back_in_time_costs_nothing_but_checkpoints(
    make_run: MakeRun, tiny: str, undisturbed: Callable[..., Run], disk: Disk
) -> None:
    """The checkpoints' disk alone is full, and the run goes on meanwhile."""
    run = make_run(*MANY)
    run.folder.mkdir()
    (run.folder / "checkpoints").symlink_to(disk.folder)
    run.start()
    run.wait_for_step(2)
    disk.fill()
    run.wait("a line", lambda: ": no checkpoint: " in run.said)
    disk.free()
    run.end()
    check_whole(run, 12)
    whole = undisturbed(tiny, *MANY)
    assert final_state(run) == final_state(whole)
    assert records(run) == records(whole)

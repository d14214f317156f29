"""Checkpoints: whole or absent, verified before use, and only for the experiment that made them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlrp.errors import UserError
from rlrp.runtime.checkpoints import STATE, latest_checkpoint, save_checkpoint


def save(run: Path, step: int, *, keep: int = 2, settings: str = "s") -> Path:
    def write(folder: str) -> None:
        (Path(folder) / "adapter_model.safetensors").write_bytes(f"weights of {step}".encode() * 50)
        (Path(folder) / "deep").mkdir()
        (Path(folder) / "deep" / "learner.json").write_text(str(step))

    return save_checkpoint(run, step, write, {"settings": settings, "reward": "r", "totals": {"r": 1}}, keep=keep)


def names(run: Path) -> list[str]:
    return sorted(os.listdir(run / "checkpoints"))


def found(run: Path, settings: str = "s") -> int | None:
    result = latest_checkpoint(run, settings=settings)
    if result is None:
        return None
    folder, state = result
    assert (folder / "deep" / "learner.json").read_text() == str(state["step"])
    return int(state["step"])


def test_the_newest_is_found_with_its_state(tmp_path: Path) -> None:
    assert found(tmp_path) is None
    save(tmp_path, 2)
    save(tmp_path, 10)
    assert found(tmp_path) == 10
    result = latest_checkpoint(tmp_path, settings="s")
    assert result is not None
    assert result[1]["reward"] == "r"


def test_last_points_at_the_newest_wherever_the_run_is_moved(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        folder = save(tmp_path / "run", step)
        last = tmp_path / "run" / "checkpoints" / "last"
        assert last.resolve() == folder
        assert (last / "adapter_model.safetensors").exists()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "checkpoints" / "last" / "deep" / "learner.json").read_text() == "3"


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=keep)
    assert names(tmp_path) == ["last", *(f"step-00000{n}" for n in left)]


def test_an_interrupted_save_leaves_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def fail(folder: str) -> None:
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    for step in (1, 2):
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(tmp_path, step, fail, {"settings": "s"})
    assert names(tmp_path) == ["last", "step-000001"]
    assert found(tmp_path) == 1


def test_what_a_killed_process_left_half_done_goes_with_the_next(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    (folder / ".step-000002.abc").mkdir()
    (folder / ".last-77").symlink_to("step-000000")
    (folder / ".best-77").symlink_to("step-000000")
    save(tmp_path, 2)
    assert names(tmp_path) == ["last", "step-000001", "step-000002"]


def test_a_folder_that_a_killed_process_left_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".step-000002.abc").mkdir()
    assert found(tmp_path) == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "one bit": lambda folder: flip(folder / "adapter_model.safetensors"),
    "cut": lambda folder: os.truncate(folder / "adapter_model.safetensors", 10),
    "gone": lambda folder: (folder / "deep" / "learner.json").unlink(),
    "no state": lambda folder: (folder / STATE).unlink(),
    "cut state": lambda folder: os.truncate(folder / STATE, 10),
    "other state": lambda folder: (folder / STATE).write_text("[]"),
    "one digit": lambda folder: (folder / STATE).write_text((folder / STATE).read_text().replace('"r": 1', '"r": 2')),
    "other sums": lambda folder: (folder / STATE).write_text('{"sha256": [1, 2]}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_gives_way_to_the_one_before_and_says_so(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    DAMAGE[damage](save(tmp_path, 2))
    assert found(tmp_path) == 1
    warning = capsys.readouterr().err.strip()
    assert "step-000002" in warning
    assert "the checkpoint before it is used" in warning
    assert "\n" not in warning


def test_when_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    for step in (1, 2):
        flip(save(tmp_path, step) / "adapter_model.safetensors")
    assert found(tmp_path) is None


def test_a_damaged_one_does_not_push_out_the_good(tmp_path: Path) -> None:
    """The run goes on from step 10 with another interval; the damaged step 20 must not count as the newest."""
    save(tmp_path, 10, keep=1)
    flip(save(tmp_path, 20, keep=2) / "adapter_model.safetensors")
    folder = save(tmp_path, 15, keep=1)
    assert names(tmp_path) == ["last", "step-000015"]
    assert (tmp_path / "checkpoints" / "last").resolve() == folder
    assert found(tmp_path) == 15


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    flip(save(tmp_path, 1) / "adapter_model.safetensors")
    save(tmp_path, 1)
    assert found(tmp_path) == 1
    assert names(tmp_path) == ["last", "step-000001"]


def test_other_settings_are_another_experiment(tmp_path: Path) -> None:
    save(tmp_path, 1, settings="one")
    with pytest.raises(UserError, match="other settings") as caught:
        latest_checkpoint(tmp_path, settings="two")
    assert caught.value.file is not None
    assert caught.value.file.endswith("step-000001")

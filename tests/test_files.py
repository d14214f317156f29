"""Files that are whole or absent, and one line about any that cannot be read."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrp.errors import UserError
from rlrp.files import (
    atomic_folder,
    atomic_path,
    held,
    read_json,
    read_jsonl,
    read_text,
    require_space,
    sha256_file,
    write_json,
    write_text,
)


class Interrupted(Exception):
    """Stands for whatever stops a program half way."""


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["a.txt"]


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(Interrupted), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise Interrupted
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_folder_is_held_by_one_at_a_time_and_by_no_dead_process(tmp_path: Path) -> None:
    hold = f"from rlrp.files import held\nwith held({str(tmp_path)!r}): print('held', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another run is at work in it"), held(tmp_path):
        pass
    other.kill()
    other.wait()
    with held(tmp_path), pytest.raises(UserError), held(tmp_path):
        pass
    assert not os.listdir(tmp_path)


def test_others_can_read_what_was_written(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "x")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "tensors").touch(0o600)  # as safetensors makes its files
        assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "folder" / "tensors").stat().st_mode) == 0o644
        assert os.umask(0o022) == 0o022  # reading the mask did not change it
    finally:
        os.umask(before)


def test_a_folder_replaces_the_one_before_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("old", "new"):
        with atomic_folder(target) as temporary:
            (temporary / f"{content}.txt").write_text(content)
            assert [p.name for p in target.glob("*")] == ([] if content == "old" else ["old.txt"])
    assert os.listdir(target) == ["new.txt"]
    assert os.listdir(tmp_path) == ["model"]


def test_an_interrupted_folder_leaves_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("before")
    with pytest.raises(Interrupted), atomic_folder(target) as temporary:
        (temporary / "b").write_text("half")
        raise Interrupted
    assert os.listdir(target) == ["a"]
    assert os.listdir(tmp_path) == ["model"]


texts = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, value)
    assert read_json(path) == value


def test_json_keeps_chinese_readable_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"名": "黛玉"})
    assert "黛玉" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"名": "黛玉"}


def test_jsonl_numbers_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    # A byte order mark, as Windows editors leave it; a line separator that is no line end in JSON.
    path.write_bytes('\ufeff{"a": 1}\r\n\n  \n{"b": "x\u2028y"}'.encode())
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"b": "x\u2028y"})]


BAD_JSON = ["{", "[1,]", "", "1" * 5000, "[" * 100_000]


@pytest.mark.parametrize("content", BAD_JSON, ids=["open", "comma", "empty", "digits", "deep"])
def test_bad_json_is_one_line_with_the_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert caught.value.file == str(path)
    assert "\n" not in str(caught.value)
    if content:
        path.write_text('{"ok": 1}\n' + content)
        with pytest.raises(UserError) as caught:
            list(read_jsonl(path))
        assert caught.value.place == "line 2"


def test_a_line_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"ok": 1}\n[1]\n')
    with pytest.raises(UserError, match="got a list, expected an object"):
        list(read_jsonl(path))


@pytest.mark.parametrize("read", [read_text, read_json, lambda path: list(read_jsonl(path))])
def test_what_cannot_be_read_is_the_users_error(tmp_path: Path, read: object) -> None:
    assert callable(read)
    (tmp_path / "gbk.txt").write_bytes("{黛玉}".encode("gbk"))
    for name, message in (("missing", "no such file"), ("gbk.txt", "not UTF-8"), (".", "folder|directory")):
        with pytest.raises(UserError, match=f"(?i){message}"):
            read(tmp_path / name)


def test_the_checksum_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    content = os.urandom(1 << 20) + b"tail"
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_space_is_checked_where_the_folder_will_be(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet" / "there", 1)
    assert not (tmp_path / "not").exists()
    with pytest.raises(UserError, match=r"needs 1000000000.0 GB.*free"):
        require_space(tmp_path / "not" / "yet", 10**18)


# -- the error itself ----------------------------------------------------------------------------------------------


def test_a_users_error_is_one_line_in_a_fixed_order() -> None:
    error = UserError("got 1,\n  need 2", file="a.yaml", place="rl.group_size")
    assert str(error) == "a.yaml: rl.group_size: got 1, need 2"
    assert str(UserError("bad")) == "bad"


def test_a_users_error_survives_the_way_between_processes() -> None:
    error = UserError("bad", file=Path("a.yaml"), place="line 3")
    # What Ray does with an error; nothing from a user's file is ever unpickled.
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.file, back.place, back.message) == ("a.yaml: line 3: bad", "a.yaml", "line 3", "bad")

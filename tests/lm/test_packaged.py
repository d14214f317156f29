"""Packaged models with a package index made of functions: what is refused, and what is left behind (nothing)."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlrp.errors import UserError
from rlrp.lm import packaged
from rlrp.lm.packaged import MODELS, PackagedModel, Wheel, cache_folder, ensure_packaged, packaged_model


def wheel_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FOLDER = wheel_bytes({"pkg/model/config.json": b"{}", "pkg/model/deep/w.bin": b"\x00\x01", "pkg/code.py": b"boom"})


def pinned(content: bytes, requirement: str = "pkg==1.0", member: str = "pkg/model/") -> Wheel:
    return Wheel(requirement, len(content), hashlib.sha256(content).hexdigest(), member)


class Index:
    """Stands in for ``subprocess.run``: serves these bytes, or fails as pip fails."""

    def __init__(self, *contents: bytes, stderr: str | None = None):
        self.contents, self.stderr = list(contents), stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> Any:
        self.commands.append(command)
        if self.stderr is not None:
            return SimpleNamespace(returncode=1, stderr=self.stderr)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir()
        (folder / "pkg-1.0-py3-none-any.whl").write_bytes(self.contents.pop(0))
        return SimpleNamespace(returncode=0, stderr="")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLRP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RLRP_ACCEPT_TERMS", raising=False)
    return tmp_path / "cache"


def serve(monkeypatch: pytest.MonkeyPatch, model: PackagedModel, index: Index) -> Index:
    monkeypatch.setitem(MODELS, model.name, model)
    monkeypatch.setattr(subprocess, "run", index)
    return index


def folder_model(wheel: Wheel, **fields: Any) -> PackagedModel:
    return PackagedModel(**{"name": "made", "licence": "MIT", "wheels": (wheel,), "converted_bytes": 10, **fields})


def refusal(cache: Path, **options: Any) -> str:
    """The one line that the user sees; nothing of the model, whole or half, stays behind."""
    with pytest.raises(UserError) as caught:
        ensure_packaged("packaged:made", **options)
    assert "\n" not in str(caught.value)
    assert [p for p in cache.rglob("*") if p.is_file() or "made" in p.name] == []
    return str(caught.value)


def test_a_folder_in_a_wheel_is_fetched_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = serve(monkeypatch, folder_model(pinned(FOLDER)), Index(FOLDER))
    folder = ensure_packaged("packaged:made")
    assert folder == cache / "models" / "made" == ensure_packaged("packaged:made")
    assert len(index.commands) == 1
    assert {"download", "--no-deps", "pkg==1.0"} <= set(index.commands[0])  # downloaded, never installed
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    source = json.loads(files.pop("rlrp_source.json"))
    assert files == {"config.json": b"{}", "deep/w.bin": b"\x00\x01"}  # the wheel's code stays out
    assert source["wheels"] == [{"requirement": "pkg==1.0", "sha256": hashlib.sha256(FOLDER).hexdigest()}]


def test_parts_of_a_gguf_are_joined_in_order(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [wheel_bytes({"d/part": content}) for content in (b"one-", b"two")]
    wheels = tuple(pinned(p, f"pkg{i}==1.0", "d/part") for i, p in enumerate(parts))
    serve(monkeypatch, folder_model(wheels[0], wheels=wheels, gguf="x.gguf"), Index(*parts))
    joined = []
    monkeypatch.setattr(packaged, "_convert_gguf", lambda gguf, target: joined.append(gguf.read_bytes()))
    ensure_packaged("packaged:made")
    assert joined == [b"one-two"]


def test_a_wheel_of_the_wrong_size_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, folder_model(pinned(FOLDER)), Index(FOLDER + b"x"))
    assert f"has {len(FOLDER) + 1} bytes, expected {len(FOLDER)}" in refusal(cache)


def test_a_wheel_with_one_other_byte_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = FOLDER[:40] + bytes([FOLDER[40] ^ 1]) + FOLDER[41:]
    serve(monkeypatch, folder_model(pinned(FOLDER)), Index(other))
    assert "wrong checksum" in refusal(cache)


@pytest.mark.parametrize(
    ("stderr", "shown"),
    [
        ("WARNING: Retrying\nERROR: No matching distribution found for pkg==1.0\n", "No matching distribution"),
        ("Connection refused\n", "Connection refused"),
        ("", "check the network"),
    ],
)
def test_what_pip_says_reaches_the_user(cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, shown: str) -> None:
    serve(monkeypatch, folder_model(pinned(FOLDER)), Index(stderr=stderr))
    message = refusal(cache)
    assert "cannot fetch pkg==1.0" in message
    assert shown in message
    assert "Retrying" not in message


def test_without_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = serve(monkeypatch, folder_model(pinned(FOLDER)), Index(FOLDER))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "ensurepip" in refusal(cache)
    assert index.commands == []


def test_a_failed_conversion_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = wheel_bytes({"d/part": b"not a gguf"})
    wheel = pinned(content, member="d/part")
    serve(monkeypatch, folder_model(wheel, gguf="x.gguf"), Index(content, content))

    def fail(gguf: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise MemoryError

    monkeypatch.setattr(packaged, "_convert_gguf", fail)
    with pytest.raises(MemoryError):
        ensure_packaged("packaged:made")
    assert [p for p in cache.rglob("*") if p.is_file() or "made" in p.name] == []


def test_terms_must_be_accepted_before_anything_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folder_model(pinned(FOLDER), terms="https://example.org/terms")
    index = serve(monkeypatch, model, Index(FOLDER, FOLDER))
    message = refusal(cache)
    assert "https://example.org/terms" in message
    assert "--accept-terms" in message
    monkeypatch.setenv("RLRP_ACCEPT_TERMS", "another-model")
    refusal(cache)
    assert index.commands == []
    monkeypatch.setenv("RLRP_ACCEPT_TERMS", "made")
    assert (ensure_packaged("packaged:made") / "config.json").exists()


def test_terms_accepted_by_flag(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, folder_model(pinned(FOLDER), terms="https://example.org/terms"), Index(FOLDER))
    assert (ensure_packaged("packaged:made", accept_terms=True) / "config.json").exists()


def test_too_little_disk_space_is_found_before_anything_is_fetched(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = serve(monkeypatch, folder_model(pinned(FOLDER), converted_bytes=10**18), Index(FOLDER))
    assert "GB are free" in refusal(cache)
    assert index.commands == []


@pytest.mark.parametrize("spec", ["packaged:nonesuch", "packaged:"])
def test_an_unknown_name_lists_the_known(spec: str) -> None:
    with pytest.raises(UserError, match="packaged:smollm2-135m-instruct") as caught:
        packaged_model(spec)
    assert "\n" not in str(caught.value)


def test_the_registry_pins_every_wheel() -> None:
    for model in MODELS.values():
        for wheel in model.wheels:
            assert "==" in wheel.requirement
            assert len(bytes.fromhex(wheel.sha256)) == 32
            assert wheel.size > 1_000_000


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLRP_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("RLRP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rlrp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "rlrp"

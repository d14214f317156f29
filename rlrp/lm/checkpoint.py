"""A model's tensors on disk, read one at a time by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from rlrp.errors import UserError
from rlrp.files import read_json


class Checkpoint:
    """Names of tensors and the open safetensors file that each is in."""

    def __init__(self, files: dict[str, Any]):
        self.files = files
        self.names = list(files)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.files[name].get_tensor(name)
        return tensor

    def tensors(self) -> dict[str, Tensor]:
        return {name: self[name] for name in self.names}


@contextmanager
def open_checkpoint(path: str | Path) -> Iterator[Checkpoint]:
    """A safetensors file, or a model's directory: one file, or several with their index.

    Raises:
        UserError: the directory holds neither.
    """
    path = Path(path)
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for file in _files(path):
            opened = stack.enter_context(safe_open(file, framework="pt"))
            files.update(dict.fromkeys(opened.keys(), opened))
        yield Checkpoint(files)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    index = path / "model.safetensors.index.json"
    if index.exists():
        return [path / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    if not (path / "model.safetensors").exists():
        raise UserError("no such file; weights must be safetensors", file=path / "model.safetensors")
    return [path / "model.safetensors"]

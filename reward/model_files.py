"""Model directories: safetensors and JSON, whole or absent, refused with one line when they do not fit.

``config.json`` names its ``format`` and ``version`` and carries the checksum of the tensors beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlrp.errors import UserError
from rlrp.files import atomic_folder, read_json, sha256_file, write_json

Floats = NDArray[np.float32]
CONFIG = "config.json"
TENSORS = "head.safetensors"
VOCABULARY = "vocabulary.json"


def write_model(
    folder: str | Path,
    tensors: Mapping[str, Floats],
    config: Mapping[str, Any],
    vocabulary: Mapping[str, Any],
    *,
    version: int,
    further: Callable[[Path], None] | None = None,
) -> None:
    """Write a model directory in one go, in place of one that is there.

    Args:
        further: writes more files into the folder; they are checked on reading like the others.
    """
    from safetensors.numpy import save_file

    with atomic_folder(folder) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary / TENSORS)
        write_json(temporary / VOCABULARY, vocabulary)
        if further is not None:
            further(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        checksums = {path.relative_to(temporary).as_posix(): sha256_file(path) for path in files}
        write_json(temporary / CONFIG, {**config, "version": version, "sha256": checksums})


def read_model(
    folder: str | Path, *, expected: str, version: int
) -> tuple[dict[str, Floats], dict[str, Any], dict[str, Any]]:
    """The tensors, the configuration and the vocabulary of a model directory.

    Args:
        expected: the ``format`` that the configuration must name.

    Raises:
        UserError: no such directory, another format or version, or files that are damaged or not its own.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no such directory; `rlrp reward train` makes the {expected} model", file=folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("format") != expected:
        got = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise UserError(f"got {got!r}, expected {expected!r}", file=folder / CONFIG, place="format")
    if config.get("version") != version:
        got = config.get("version")
        raise UserError(f"got {got!r}, need {version}; train again", file=folder / CONFIG, place="version")
    checksums = config.get("sha256")
    checksums = checksums if isinstance(checksums, dict) else {}
    for name in dict.fromkeys((TENSORS, VOCABULARY, *map(str, checksums))):
        if not (folder / name).is_file():
            raise UserError("is missing; train again", file=folder / name)
        if sha256_file(folder / name) != checksums.get(name):
            raise UserError(f"is not the file that {CONFIG} was written with; train again", file=folder / name)
    return _read_tensors(folder / TENSORS), config, read_json(folder / VOCABULARY)


def _read_tensors(path: Path) -> dict[str, Floats]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"cannot be read: {error}", file=path) from error

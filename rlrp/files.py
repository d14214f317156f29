"""Files that are either whole or absent: everything is written beside its place and renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlrp.errors import UserError


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A temporary path in the target's folder, renamed onto the target if the block ends without an error."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """A temporary folder beside the target, renamed onto it if the block ends without an error."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for path in temporary.rglob("*"):  # safetensors, too, makes files that only their owner can read
            if path.is_file():
                os.chmod(path, 0o666 & ~_umask())
        if target.exists():
            old = target.with_name(f".{target.name}.old-{os.getpid()}")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Have a folder to oneself for the block: two runs that write into one would ruin both. However a process ends, it
    holds nothing any more.

    Raises:
        UserError: another process holds it.
    """
    import fcntl  # there is none on Windows

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = "another run is at work in it; wait for it, or choose another `run_dir`"
            raise UserError(problem, file=folder) from None
        except OSError as error:  # some network file systems know no locks, or none of folders
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF):
                raise
        yield
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_text(path: str | Path) -> str:
    """The file's text; a missing, unreadable or non-UTF-8 file is the user's error."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("no such file", file=path) from None
    except IsADirectoryError:
        raise UserError("is a folder, expected a file", file=path) from None
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text (byte {error.start})", file=path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=path) from None


def read_json(path: str | Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"is not JSON: {error.msg}", file=path, place=f"line {error.lineno}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nested too deeply
        raise UserError(f"cannot be read as JSON: {error}", file=path) from None


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers (from 1) and the objects on them, streamed; blank lines are skipped."""
    path = Path(path)
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise UserError("no such file", file=path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=path) from None
    with stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"is not UTF-8 text (byte {error.start})", file=path, place=f"line {number}") from None
            if line.strip():
                yield number, _object(line, path, number)


def sha256_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_space(folder: str | Path, needed_bytes: int) -> None:
    """Refuse, before anything is written, what will not fit on the disk."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            f"needs {needed_bytes / 1e9:.1f} GB of disk space, {free / 1e9:.1f} GB are free; free some space or "
            "choose another folder",
            file=folder,
        )


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"is not JSON: {error.msg} (column {error.colno})", file=path, place=f"line {number}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot be read as JSON: {error}", file=path, place=f"line {number}") from None
    if not isinstance(value, dict):
        raise UserError(f"got a {type(value).__name__}, expected an object", file=path, place=f"line {number}")
    return value


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

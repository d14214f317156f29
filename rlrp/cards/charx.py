"""The ``.charx`` container of V3: a zip file with ``card.json`` at its root and assets beside it."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from rlrp.cards.jsonio import MAX_CARD_BYTES, MAX_FILE_BYTES
from rlrp.errors import UserError

CARD_MEMBER = "card.json"

_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others can be made to ask for gigabytes before the first byte comes out."""

_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    IndexError,
    OverflowError,
)


def read_card_json(data: bytes, *, file: str | Path | None = None) -> bytes:
    """The bytes of ``card.json``."""
    return _read_members(data, file, only=CARD_MEMBER)[CARD_MEMBER]


def read_assets(data: bytes, *, file: str | Path | None = None) -> dict[str, bytes]:
    """Everything but ``card.json``: name in the archive to content."""
    members = _read_members(data, file)
    members.pop(CARD_MEMBER)
    return members


def write_charx(card_json: bytes, assets: Mapping[str, bytes]) -> bytes:
    """A ``.charx`` file; the same input gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ((CARD_MEMBER, card_json), *assets.items()):
            archive.writestr(_member_info(name), content)
    return buffer.getvalue()


def _member_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # its date is 1980, so that time does not enter the file
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _read_members(data: bytes, file: str | Path | None, only: str | None = None) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            if CARD_MEMBER not in infos:
                raise UserError(f"no {CARD_MEMBER} at the root of this .charx file", file=file)
            wanted = infos if only is None else {only: infos[only]}
            contents: dict[str, bytes] = {}
            left = MAX_FILE_BYTES
            for name, info in wanted.items():
                limit = MAX_CARD_BYTES if name == CARD_MEMBER else left
                contents[name] = _read_member(archive, info, limit, file)
                left -= len(contents[name])
            return contents
    except _DAMAGE as error:
        raise UserError(f"not a readable .charx (zip) file: {error}", file=file) from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int, file: str | Path | None) -> bytes:
    if info.flag_bits & 1:
        raise UserError("encrypted; save the .charx file without a password", file=file, place=info.filename)
    if info.compress_type not in _READABLE:
        raise UserError("compressed in a way other than deflate", file=file, place=info.filename)
    with archive.open(info) as stream:
        content = stream.read(limit + 1)  # the size the archive states may be a lie
    if len(content) > limit:
        raise UserError(f"unpacks to more than {limit} bytes; not a card", file=file, place=info.filename)
    return content

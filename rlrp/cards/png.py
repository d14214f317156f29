"""Text chunks of PNG files, without an imaging library: cards travel as text inside their portrait.

Format: the PNG specification (https://www.w3.org/TR/png-3/), sections 5 (chunks) and 11.3.3 (text).
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlrp.cards.jsonio import MAX_CARD_BYTES
from rlrp.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CARD_KEYWORDS = ("ccv3", "chara")
"""The better one first: V3 exporters also write a V2 copy under the old keyword."""

_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_ENCODED_BYTES = MAX_CARD_BYTES * 4 // 3 + 4
_BLANK_SIZE = 256


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    body: bytes
    crc: int
    start: int
    """Offset of the chunk's length field in the file."""


def read_card_json(image: bytes, *, file: str | Path | None = None) -> tuple[bytes, str]:
    """The JSON bytes of the card in a PNG, and the keyword it was under: ``ccv3`` if there, else ``chara``.

    Raises:
        UserError: not a PNG, cut off, no card in it, or the card's chunk is damaged.
    """
    found: dict[str, bytes] = {}
    for chunk in _chunks(image, file):
        keyword = _keyword(chunk)
        if keyword in CARD_KEYWORDS and keyword not in found:
            found[keyword] = _text(chunk, keyword, file)
    for keyword in CARD_KEYWORDS:
        if keyword in found:
            return _decode_base64(found[keyword], keyword, file), keyword
    raise UserError("no character card in this image; expected a text chunk ccv3 or chara", file=file)


def write_card_json(image: bytes, texts: Mapping[str, bytes], *, file: str | Path | None = None) -> bytes:
    """The image with ``texts`` (keyword to JSON bytes) as base64 in tEXt chunks, in place of those it had."""
    pieces = [SIGNATURE]
    for chunk in _chunks(image, file):
        if chunk.kind == b"IEND":
            pieces += [
                make_chunk(b"tEXt", key.encode("latin-1") + b"\0" + base64.b64encode(text))
                for key, text in texts.items()
            ]
        if _keyword(chunk) not in CARD_KEYWORDS:
            end = chunk.start + len(chunk.body) + 12
            pieces.append(image[chunk.start : end])
    return b"".join(pieces)


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Length, type, body and checksum of a chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def blank_image(name: str) -> bytes:
    """A square of one colour, which depends on ``name``."""
    colour = zlib.crc32(name.encode("utf-8")).to_bytes(4, "big")[:3]
    header = struct.pack(">IIBBBBB", _BLANK_SIZE, _BLANK_SIZE, 8, 2, 0, 0, 0)
    rows = (b"\0" + colour * _BLANK_SIZE) * _BLANK_SIZE
    chunks = (make_chunk(b"IHDR", header), make_chunk(b"IDAT", zlib.compress(rows, 9)), make_chunk(b"IEND", b""))
    return SIGNATURE + b"".join(chunks)


def _chunks(image: bytes, file: str | Path | None) -> Iterator[_Chunk]:
    """The chunks up to IEND; what follows it is not PNG and is ignored."""
    if not image.startswith(SIGNATURE):
        raise UserError("not a PNG image; expected .png, .json or .charx content to match its name", file=file)
    start = len(SIGNATURE)
    while start + 12 <= len(image):
        length, kind = struct.unpack_from(">I4s", image, start)
        end = start + 12 + length
        if end > len(image):
            raise UserError(
                f"cut off: chunk {_printable(kind)} says {length} bytes, {len(image) - start - 12} are left", file=file
            )
        (crc,) = struct.unpack_from(">I", image, end - 4)
        yield _Chunk(kind, image[start + 8 : end - 4], crc, start)
        if kind == b"IEND":
            return
        start = end
    raise UserError("cut off: the image has no end (IEND chunk)", file=file)


def _printable(kind: bytes) -> str:
    return ascii(kind.decode("latin-1"))


def _keyword(chunk: _Chunk) -> str | None:
    """The keyword of a text chunk in lower case; programs differ in how they write it."""
    if chunk.kind not in _TEXT_CHUNKS:
        return None
    return chunk.body[:80].partition(b"\0")[0].decode("latin-1").lower()


def _text(chunk: _Chunk, keyword: str, file: str | Path | None) -> bytes:
    """The text of a chunk, checked and decompressed. Pixels are not checked: the card does not need them."""
    place = f"{keyword} chunk"
    if zlib.crc32(chunk.kind + chunk.body) != chunk.crc:
        raise UserError("damaged: its checksum (CRC) does not match; get the card again", file=file, place=place)
    body = chunk.body.partition(b"\0")[2]
    if chunk.kind == b"zTXt":
        return _inflate(body[1:], place, file)
    if chunk.kind == b"iTXt":
        flags, rest = body[:2], body[2:]
        text = rest.partition(b"\0")[2].partition(b"\0")[2]
        return _inflate(text, place, file) if flags[:1] == b"\1" else text
    return body


def _inflate(data: bytes, place: str, file: str | Path | None) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, _MAX_ENCODED_BYTES + 1)
    except zlib.error as error:
        raise UserError(f"cannot be decompressed: {error}", file=file, place=place) from error
    if len(text) > _MAX_ENCODED_BYTES:
        raise UserError(f"unpacks to more than {_MAX_ENCODED_BYTES} bytes; not a card", file=file, place=place)
    if not inflater.eof:
        raise UserError("cannot be decompressed: it is cut off", file=file, place=place)
    return text


def _decode_base64(text: bytes, keyword: str, file: str | Path | None) -> bytes:
    place = f"{keyword} chunk"
    if len(text) > _MAX_ENCODED_BYTES:
        raise UserError(f"{len(text)} bytes; a card has at most {_MAX_ENCODED_BYTES}", file=file, place=place)
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise UserError(f"not base64: {error}", file=file, place=place) from error

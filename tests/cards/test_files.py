from __future__ import annotations

import base64
import io
import json
import struct
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrp.cards import CharacterCard, card_to_dict, jsonio, read_card, read_cards, write_card
from rlrp.cards.png import SIGNATURE, blank_image, make_chunk
from rlrp.errors import UserError

from .strategies import cards, comparable

CARD = CharacterCard(name="张飞", description="字翼德。", greeting="俺来也！", aliases=("翼德",))
JSON = json.dumps(card_to_dict(CARD)).encode()


def png_with(*chunks: bytes, end: bytes = make_chunk(b"IEND", b"")) -> bytes:
    head = blank_image("x")[: -len(make_chunk(b"IEND", b""))]
    return head + b"".join(chunks) + end


def text_chunk(keyword: bytes, body: bytes) -> bytes:
    return make_chunk(b"tEXt", keyword + b"\0" + body)


def charx_with(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def read_bytes_as(folder: Path, name: str, data: bytes) -> CharacterCard:
    path = folder / name
    path.write_bytes(data)
    return read_card(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cards")


@settings(max_examples=30, deadline=None)
@given(card=cards, suffix=st.sampled_from([".json", ".png", ".apng", ".charx", ".JSON"]))
def test_round_trip(card: CharacterCard, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # generated texts may hold unknown macros
        path = Path(folder, f"card{suffix}")
        write_card(card, path)
        assert comparable(read_card(path)) == comparable(card)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]  # no temporary file left


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".json", ".png", ".charx", ".jsonl"]))
def test_any_bytes_are_a_user_error(folder: Path, data: bytes, suffix: str) -> None:
    path = folder / f"any{suffix}"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_cards(path)
    assert caught.value.file == str(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), suffix=st.sampled_from([".json", ".png", ".charx"]))
def test_damaged_bytes_are_read_or_a_user_error(folder: Path, data: st.DataObject, suffix: str) -> None:
    path = folder / f"damaged{suffix}"
    path.unlink(missing_ok=True)
    write_card(CARD, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        card = read_card(path)
    except UserError as error:
        assert error.file == str(path)
    else:
        assert card.name


def test_json_forms(folder: Path) -> None:
    assert read_bytes_as(folder, "bom.json", b"\xef\xbb\xbf" + JSON).name == "张飞"
    for number, (data, message) in enumerate(
        [
            (b"", "not JSON: Expecting value at line 1 column 1"),
            (b'{"name": "N",\n}', "line 2 column 1"),
            (b'{"name": NaN}', "NaN is not a JSON number"),
            (b'{"name": "\xff"}', "not UTF-8 at byte 10"),
            (b"[" * 100_000, "nested"),
            (b'{"name": "N", "x": ' + b"[" * 70 + b"]" * 70 + b"}", "nested more than 64 levels deep"),
            (b'{"name": ' + b"1" * 5000 + b"}", "not JSON"),
            (b"[]", "got an array, expected an object"),
        ]
    ):
        with pytest.raises(UserError, match=message):
            read_bytes_as(folder, f"bad{number}.json", data)


def test_png_prefers_ccv3_and_ignores_case(folder: Path) -> None:
    old = text_chunk(b"Chara", base64.b64encode(b'{"name": "old"}'))
    new = text_chunk(b"CCV3", base64.b64encode(b'{"name": "new"}'))
    assert read_bytes_as(folder, "both.png", png_with(old, new)).name == "new"
    assert read_bytes_as(folder, "old.png", png_with(old)).name == "old"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"tEXt", b"chara\0" + base64.encodebytes(JSON)),  # with line breaks
        (b"zTXt", b"chara\0\0" + zlib.compress(base64.b64encode(JSON))),
        (b"iTXt", b"chara\0\0\0en\0Chara\0" + base64.b64encode(JSON)),
        (b"iTXt", b"chara\0\1\0\0\0" + zlib.compress(base64.b64encode(JSON))),
    ],
)
def test_png_text_chunks(folder: Path, kind: bytes, body: bytes) -> None:
    card = read_bytes_as(folder, "text.png", png_with(make_chunk(kind, body)))
    assert (card.name, card.aliases) == ("张飞", ("翼德",))


def damaged_crc(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


ENCODED = base64.b64encode(JSON)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"GIF89a", "not a PNG"),
        (SIGNATURE, "no end"),
        (png_with(), "no character card in this image"),
        (png_with(text_chunk(b"chara", ENCODED), end=b""), "no end"),
        (png_with(text_chunk(b"chara", ENCODED))[:-14], "cut off"),
        (png_with(struct.pack(">I", 2**31) + b"tEXt" + b"chara\0"), "cut off"),
        (png_with(damaged_crc(text_chunk(b"chara", ENCODED))), "chara chunk: damaged"),
        (png_with(text_chunk(b"chara", b"$$$$")), "chara chunk: not base64"),
        (png_with(text_chunk(b"ccv3", ENCODED[:-1])), "ccv3 chunk: not base64"),
        (png_with(text_chunk(b"chara", base64.b64encode(b"{"))), "chara chunk: not JSON"),
        (png_with(make_chunk(b"zTXt", b"chara\0\0junk")), "cannot be decompressed"),
        (png_with(make_chunk(b"zTXt", b"chara\0\0" + zlib.compress(ENCODED)[:-9])), "cut off"),
        (png_with(make_chunk(b"zTXt", b"chara\0\0" + zlib.compress(bytes(30 * 2**20)))), "unpacks to more than"),
    ],
)
def test_png_damage(folder: Path, image: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_bytes_as(folder, "damage.png", image)


def test_png_damage_beside_the_card_does_not_matter(folder: Path) -> None:
    image = png_with(damaged_crc(make_chunk(b"gAMA", b"\0\0\0\1")), text_chunk(b"chara", ENCODED)) + b"trailing"
    assert read_bytes_as(folder, "beside.png", image).name == "张飞"


def test_png_keeps_the_picture_and_replaces_the_card(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    comment = text_chunk(b"Comment", b"painted by hand")
    path.write_bytes(png_with(comment, text_chunk(b"Chara", base64.b64encode(b'{"name": "old"}'))))
    write_card(CARD, path)
    written = path.read_bytes()
    assert read_card(path).name == "张飞"
    assert written.startswith(png_with(comment, end=b""))
    assert (written.lower().count(b"text" + b"chara\0"), written.count(b"tEXt" + b"ccv3\0")) == (1, 1)
    other = tmp_path / "b.png"
    write_card(CARD, other, container=path)
    assert other.read_bytes() == written


def test_png_is_an_image_for_others(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    write_card(CARD, tmp_path / "a.png")
    with image.open(tmp_path / "a.png") as opened:
        opened.load()
        assert opened.size == (256, 256)
        assert json.loads(base64.b64decode(opened.text["chara"]))["spec"] == "chara_card_v2"
        assert json.loads(base64.b64decode(opened.text["ccv3"]))["spec"] == "chara_card_v3"


def test_charx_keeps_assets(tmp_path: Path) -> None:
    path = tmp_path / "a.charx"
    path.write_bytes(charx_with({"card.json": JSON, "assets/icon/images/main.png": b"pixels"}))
    write_card(read_card(path), path)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["assets/icon/images/main.png", "card.json"]
        assert archive.read("assets/icon/images/main.png") == b"pixels"
        assert json.loads(archive.read("card.json"))["spec"] == "chara_card_v3"
    first = path.read_bytes()
    write_card(read_card(path), path)
    assert path.read_bytes() == first


def test_charx_warns_of_assets_it_does_not_have(tmp_path: Path) -> None:
    card = CharacterCard(name="N", extras={"assets": [{"type": "icon", "uri": "embeded://assets/a.png"}]})
    with pytest.warns(UserWarning, match=r"embeded://assets/a\.png"):
        write_card(card, tmp_path / "a.charx")


def encrypted(data: bytes) -> bytes:
    return data.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable .charx"),
        (b"PK\x03\x04", "not a readable .charx"),
        (charx_with({"folder/card.json": JSON}), "no card.json at the root"),
        (charx_with({"card.json": JSON})[:-30], "not a readable .charx"),
        (charx_with({"card.json": b" " * (17 * 2**20)}), "card.json: unpacks to more than"),
        (charx_with({"card.json": JSON}, zipfile.ZIP_LZMA), "other than deflate"),
        (encrypted(charx_with({"card.json": JSON})), "encrypted"),
        (charx_with({"card.json": b"{"}), "card.json: not JSON"),
    ],
)
def test_charx_damage(folder: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_bytes_as(folder, "damage.charx", data)


def test_too_large_a_file_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonio, "MAX_FILE_BYTES", 10)
    with pytest.raises(UserError, match="larger than 10 bytes"):
        read_bytes_as(folder, "large.json", b'{"name": "N"}')


def test_folder_is_sorted_by_slug(tmp_path: Path) -> None:
    for name in ("b.json", "a.png", "c.charx"):
        write_card(CharacterCard(name=name), tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a card")
    (tmp_path / "._a.json").write_bytes(b"\0")  # what macOS leaves on foreign disks
    (tmp_path / "sub").mkdir()
    found = read_cards(tmp_path)
    assert [(slug, card.name) for slug, card in found.items()] == [("a", "a.png"), ("b", "b.json"), ("c", "c.charx")]
    write_card(CARD, tmp_path / "a.json")
    with pytest.raises(UserError, match="a second card called 'a'"):
        read_cards(tmp_path)


def test_one_file(tmp_path: Path) -> None:
    write_card(CARD, tmp_path / "fei.json")
    assert list(read_cards(tmp_path / "fei.json")) == ["fei"]


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text('{"name": "张飞", "id": "fei"}\n\n{"name": "Watson"}\n', encoding="utf-8")
    assert {slug: card.name for slug, card in read_cards(path).items()} == {"all-00003": "Watson", "fei": "张飞"}
    path.write_text('{"name": "N"}\n{"name": 3}\n', encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_cards(path)
    assert str(caught.value) == f"{path}: line 2, name: got a number, expected a string"
    path.write_text('{"name": "N"}\n{\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2: not JSON"):
        read_cards(path)
    path.write_text('{"name": "N", "id": "n"}\n{"name": "N", "id": "n"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2: a second card called 'n'"):
        read_cards(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cards here; expected files ending in"):
        read_cards(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no cards here; expected lines"):
        read_cards(tmp_path / "empty.jsonl")
    for name in ("absent.json", "absent.jsonl", "absent.png"):
        with pytest.raises(UserError, match="cannot be read: No such file"):
            read_cards(tmp_path / name)
    for name in ("absent", "card.webp"):
        with pytest.raises(UserError, match="a card file ends in"):
            read_cards(tmp_path / name)
    with pytest.raises(UserError, match="a card file ends in"):
        write_card(CARD, tmp_path / "card.webp")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_card(CARD, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="JSON cannot"):
        write_card(CharacterCard(name="N", extras={"x": {1, 2}}), path)
    with pytest.raises(UserError, match="cannot be written"):
        write_card(CARD, path / "below.json")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_half_characters_in_unknown_fields_survive(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"name": "N", "x_note": "\\ud83d"}')
    write_card(read_card(path), tmp_path / "b.json")
    assert read_card(tmp_path / "b.json").extras["x_note"] == "\ud83d"


def test_json_keeps_the_version_it_was_read_as(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(card_to_dict(CARD, spec="v3")))
    write_card(read_card(path), path)
    assert json.loads(path.read_text(encoding="utf-8"))["spec"] == "chara_card_v3"
    write_card(read_card(path), path, spec="v2")
    assert json.loads(path.read_text(encoding="utf-8"))["spec"] == "chara_card_v2"


def test_unknown_macros_are_reported(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"unknown macros stay in the text as they are: \{\{time\}\}"):
        read_bytes_as(folder, "macro.json", b'{"name": "N", "description": "{{char}} at {{time}}"}')

"""Public data sets, as users download them: lines that people wrote, and replies that people judged for contradiction.

None of it ships. A folder holds the sets under the names that their repositories have in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reward.text import Language
from rlrp.cards import CharacterCard
from rlrp.dialogue.types import Message, Sample
from rlrp.errors import UserError
from rlrp.files import read_json, read_jsonl, read_text

_HAN = re.compile(r"[\u4e00-\u9fff]")
_HAN_SHARE = 0.2


@dataclass(frozen=True)
class Labelled:
    """A reply that people called consistent (``good``) or not; ``group`` is what folds and intervals go by."""

    sample: Sample
    good: bool
    group: str


def charactereval(folder: Path) -> Iterator[str]:
    """Lines of Chinese series and novels (Tu et al., 2024): "NAME：line", with （actions）."""
    path = folder / "charactereval" / "test_data.jsonl"
    seen: set[str] = set()
    rows = read_json(path)
    for at, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("context"), str):
            raise UserError("has no text `context`: not CharacterEval's test data", file=path, place=f"[{at}]")
        for turn in row["context"].splitlines():
            _, found, line = turn.partition("：")
            if found and line.strip() and line not in seen:
                seen.add(line)
                yield line


def chatharuhi(folder: Path, language: Language) -> Iterator[str]:
    """Script lines of one language: the first of each dialogue; the answers to them are a model's."""
    seen: set[str] = set()
    for file in sorted((folder / "chatharuhi" / "kyon_generator" / "organized_data").glob("*.jsonl")):
        for _, row in read_jsonl(file):
            for turn in row["dialogue"][:1]:
                text = re.sub(r"[「」]", "", turn["text"]).strip()
                han = len(_HAN.findall(text)) > _HAN_SHARE * len(text)
                if text and text not in seen and han == (language == "zh"):
                    seen.add(text)
                    yield text


def coser(folder: Path) -> Iterator[str]:
    """Messages of novel scenes (CoSER): [thought], (action) and speech."""
    for scene in read_json(folder / "coser" / "data" / "test" / "test_set.json"):
        for turn in scene["dialogues"]:
            if turn["character"] != "Environment":
                yield turn["message"]


def personachat(folder: Path) -> Iterator[str]:
    """Crowd workers speaking as somebody, lower-cased."""
    for line in read_text(folder / "rcdg_dnli_personachat" / "tgt-val.txt").splitlines():
        if line.strip():
            yield line.replace(" ' ", "'")


Lines = Callable[[Path], Iterator[str]]
HUMAN_LINES: dict[str, tuple[Language, str, Lines]] = {
    "charactereval": ("zh", "charactereval/test_data.jsonl", charactereval),
    "chatharuhi-zh": ("zh", "chatharuhi/kyon_generator", lambda folder: chatharuhi(folder, "zh")),
    "chatharuhi-en": ("en", "chatharuhi/kyon_generator", lambda folder: chatharuhi(folder, "en")),
    "coser": ("en", "coser/data/test/test_set.json", coser),
    "personachat": ("en", "rcdg_dnli_personachat/tgt-val.txt", personachat),
}
"""By name: language, a file or folder that must be there, and the reader."""


def cdconv(folder: Path) -> list[Labelled]:
    """CDConv (Zheng et al., EMNLP 2022): does the second answer confuse the roles of the two who talk (label 2)?
    The other contradictions (1, 3) are left out."""
    path = folder / "cdconv" / "cdconv.txt"
    card = CharacterCard(name="乙", description="和朋友聊天的人。")
    found = []
    for number, row in read_jsonl(path):
        if missing := [key for key in ("u1", "b1", "u2", "b2", "label") if key not in row]:
            raise UserError(f"has no {missing[0]!r}: not CDConv's file", file=path, place=f"line {number}")
        if row["label"] in (0, 2):
            said = (Message("user", row["u1"]), Message("assistant", row["b1"]), Message("user", row["u2"]))
            found.append(Labelled(Sample(card, said, row["b2"]), row["label"] == 0, row["u1"]))
    return found


_PROFILE = re.compile(r"'(\w+)': *'?([^',}]*)'?")
_FIELDS = {"gender": "性别", "loc": "所在地", "constellation": "星座", "male": "男", "female": "女"}


def kvpi(folder: Path) -> list[Labelled]:
    """KvPI (Song et al., EMNLP 2020), test split: does the reply entail (0) or contradict (1) the profile?
    Replies that have nothing to do with it (2) are left out."""
    path = folder / "kvpi" / "KvPI_test.txt"
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        text, *rest = line.split("\t")
        profile, separator, reply = text.partition(" <SEP> ")
        if not separator or not rest:
            raise UserError("is no row of KvPI: profile <SEP> reply, label", file=path, place=f"line {number}")
        if rest[0] in ("0", "1"):
            pairs = _PROFILE.findall(profile)
            told = "；".join(f"{_FIELDS.get(key, key)}：{_FIELDS.get(value, value)}" for key, value in pairs)
            card = CharacterCard(name="我", description=told)
            found.append(Labelled(Sample(card, (), reply), rest[0] == "0", profile))
    return found


def dnli(folder: Path) -> list[Labelled]:
    """Dialogue NLI (Welleck et al., ACL 2019), the validation part: does the second sentence follow from the persona
    (positive) or contradict it (negative)? Neutral pairs are left out."""
    path = folder / "rcdg_dnli_personachat" / "nli-valid.txt"
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        parts = line.strip().split("</s>")
        if len(parts) != 3 or parts[2] not in ("positive", "negative", "neutral"):
            raise UserError("is no row of Dialogue NLI: two sentences and a label", file=path, place=f"line {number}")
        if parts[2] != "neutral":
            card = CharacterCard(name="Speaker", description=parts[0])
            found.append(Labelled(Sample(card, (), parts[1]), parts[2] == "positive", parts[0]))
    return found


CONTRADICTIONS: dict[str, tuple[Language, str, Callable[[Path], list[Labelled]]]] = {
    "cdconv: confuses the roles": ("zh", "cdconv/cdconv.txt", cdconv),
    "kvpi: contradicts the profile": ("zh", "kvpi/KvPI_test.txt", kvpi),
    "dnli: contradicts the persona": ("en", "rcdg_dnli_personachat/nli-valid.txt", dnli),
}
"""By name: language, the file, and the reader."""

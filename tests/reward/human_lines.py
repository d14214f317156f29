"""Human-written lines from the data folder beside the repository, for measuring false positives; nothing is copied."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

SHARED = Path(os.environ.get("RLRP_SHARED", Path(__file__).parents[2] / ".." / "shared")) / "data"


def charactereval() -> Iterator[str]:
    """Lines of Chinese series and novels: "NAME：line", with （actions）."""
    seen: set[str] = set()
    for row in json.loads((SHARED / "charactereval" / "test_data.jsonl").read_text(encoding="utf-8")):
        for turn in row["context"].splitlines():
            _, found, line = turn.partition("：")
            if found and line.strip() and line not in seen:
                seen.add(line)
                yield line


def chatharuhi(language: str) -> Iterator[str]:
    """Script lines of one language: the first of each dialogue; the answers to them are a model's."""
    seen: set[str] = set()
    for file in sorted((SHARED / "chatharuhi" / "kyon_generator" / "organized_data").glob("*.jsonl")):
        for row in filter(str.strip, file.read_text(encoding="utf-8").splitlines()):
            for turn in json.loads(row)["dialogue"][:1]:
                text = re.sub(r"[「」]", "", turn["text"]).strip()
                han = len(re.findall(r"[\u4e00-\u9fff]", text)) > 0.2 * len(text)
                if text and text not in seen and han == (language == "zh"):
                    seen.add(text)
                    yield text


def coser() -> Iterator[str]:
    """Messages of novel scenes: [thought], (action) and speech."""
    scenes = json.loads((SHARED / "coser" / "data" / "test" / "test_set.json").read_text(encoding="utf-8"))
    for scene in scenes:
        for turn in scene["dialogues"]:
            if turn["character"] != "Environment":
                yield turn["message"]


def personachat() -> Iterator[str]:
    """Crowd workers speaking as somebody, lower-cased."""
    for line in (SHARED / "rcdg_dnli_personachat" / "tgt-val.txt").read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield line.replace(" ' ", "'")


SOURCES = {
    "charactereval": ("zh", charactereval),
    "chatharuhi-zh": ("zh", lambda: chatharuhi("zh")),
    "chatharuhi-en": ("en", lambda: chatharuhi("en")),
    "coser": ("en", coser),
    "personachat": ("en", personachat),
}

"""What people said of replies: ratings from CharacterBench or from files of one's own.

CharacterBench (Zhou et al., AAAI 2025, arXiv 2412.11912) has no licence: users download it themselves, and nothing
that was learnt from it ships with the project.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward.sample_files import encodable, read_sample_lines
from reward.text import Language
from rlrp.cards import CharacterCard, parse_card
from rlrp.dialogue.types import Message, Sample
from rlrp.errors import UserError
from rlrp.files import read_json

_SUFFIX = "_test.json"
_FOLDERS = ("raw_data", "eval_data/raw_data", ".")
_NEEDED = ("dialogue", "messages", "response_messages", "annotation_score", "character_name", "character_profile")


@dataclass(frozen=True)
class Rating:
    """One reply and what people gave it for one dimension.

    Args:
        dimension: what was asked for, such as ``engagement``.
        score: higher is better; scales differ between dimensions.
        generator: the model that wrote the reply, in lower case; empty if unknown.
        item: the same for the translations of one reply.
        published: what a published judge that sees no reference gave; None without one.
    """

    sample: Sample
    dimension: str
    score: float
    language: Language
    generator: str
    character: str
    item: str
    published: float | None = None


def read_ratings(path: str | Path, languages: Sequence[Language] = ("zh", "en")) -> list[Rating]:
    """The ratings in a folder of CharacterBench, or in a JSON-lines file (or a folder of them) of one's own.

    A line of one's own is one of ``rlrp reward score`` with ``ratings: {dimension: number}`` and, if it is known,
    ``generator``; its language is its card's.

    Raises:
        UserError: nothing there to read, or a file that is not as described; file and place are named.
    """
    path = Path(path)
    if not path.exists():
        raise UserError("no such file or folder; give a folder of CharacterBench or a .jsonl file", file=path)
    if path.is_file():
        return [rating for rating in _own(path) if rating.language in languages]
    for folder in (path / name for name in _FOLDERS):
        if files := sorted(folder.glob(f"*{_SUFFIX}")):
            return [rating for file in files for rating in _characterbench(file, languages)]
    if files := sorted(path.glob("*.jsonl")):
        return [rating for file in files for rating in _own(file) if rating.language in languages]
    raise UserError(f"no *{_SUFFIX} (CharacterBench) and no *.jsonl in it or in its raw_data", file=path)


def _own(path: Path) -> Iterator[Rating]:
    for line in read_sample_lines(path):
        given, sample = line.values.get("ratings"), line.sample
        place = f"{line.place}, ratings"
        if not isinstance(given, dict) or not given:
            raise UserError('expected {dimension: number}, such as {"engagement": 4}', file=path, place=place)
        for dimension, score in given.items():
            number = _number(score)
            if number is None:
                raise UserError(f"got {score!r}, expected a number", file=path, place=f"{place}.{dimension}")
            generator = str(line.values.get("generator") or "").lower()
            language = sample.card.language
            yield Rating(sample, dimension, number, language, generator, sample.card.name, str(line.identifier))


def _characterbench(path: Path, languages: Sequence[Language]) -> Iterator[Rating]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"got {type(rows).__name__}, expected a list of rated replies", file=path)
    dimension = path.name.removesuffix(_SUFFIX)
    for at, row in enumerate(rows):
        place = f"[{at}]"
        if missing := [key for key in _NEEDED if not isinstance(row, Mapping) or key not in row]:
            raise UserError(f"has no {missing[0]!r}: not a file of CharacterBench", file=path, place=place)
        written, score = row["response_messages"], _number(row["annotation_score"])
        if score is None:
            got = row["annotation_score"]
            raise UserError(f"got {got!r}, expected a number", file=path, place=f"{place}.annotation_score")
        generator = str(written.get("model", "")).lower() if isinstance(written, Mapping) else ""
        name = flat_text(row["character_name"])
        for language in languages:
            own = row if language == "zh" else row.get("translation_en")
            if own is None:
                continue
            published = row.get("pred_zh_ref_free" if language == "zh" else "pred_en_ref_free")
            item = f"{dimension}/{row.get('id', at)}"
            try:
                sample = _sample(own)
            except (KeyError, TypeError, AttributeError, UserError) as error:
                raise UserError(f"cannot be read as a dialogue: {error}", file=path, place=place) from None
            yield Rating(sample, dimension, score, language, generator, name, item, _number(published))


def _sample(row: Mapping[str, Any]) -> Sample:
    card: CharacterCard = parse_card(
        {"name": flat_text(row["character_name"])[:200], "description": flat_text(row["character_profile"])}
    )
    messages = [
        Message("user" if turn["speaker"] == "user" else "assistant", flat_text(turn["utterance"]))
        for turn in row["dialogue"]
    ]
    last = Message("user", flat_text(row["messages"]["response"]))
    if not messages or messages[-1] != last:  # some rows repeat it at the end of the dialogue
        messages.append(last)
    return Sample(card, tuple(messages), flat_text(row["response_messages"]["response"]))


def flat_text(value: Any) -> str:
    """A text, or a table of texts as lines of ``key：value``; no lone surrogates."""
    if isinstance(value, Mapping):
        return "\n".join(f"{key}：{flat_text(own)}" for key, own in value.items())
    if isinstance(value, list):
        return "；".join(flat_text(own) for own in value)
    return encodable(str(value))


def _number(value: Any) -> float | None:
    """The value as a finite number, None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None

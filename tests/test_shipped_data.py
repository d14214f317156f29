"""The data that ships with rlrp: its shape, and that it is as varied and as separate as the data card says.

The floors of variety stand a little below what was measured when the data was written, given beside each.
"""

import json
import re
import statistics
import warnings
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from reward.blacklist import BlacklistTerm
from rlrp.cards import CharacterCard, is_illeist, read_cards
from rlrp.dialogue import Contrast, Dialogue, Pool, Sample, load_pool, near_duplicates, read_prompts, resolve
from rlrp.dialogue.cleaning import units
from rlrp.files import read_json, read_jsonl

DATA = resolve("builtin:README.md").parent
EXAMPLES = Path(__file__).parent / "dialogue" / "data"
LANGUAGES = ("en", "zh")
V2_FILLED = ("name", "description", "personality", "scenario", "first_mes", "mes_example", "creator_notes", "creator")
V2_TEXTS = (*V2_FILLED, "character_version", "system_prompt", "post_history_instructions")

pytestmark = pytest.mark.parametrize("language", LANGUAGES)


@cache
def cards(language: str) -> dict[str, CharacterCard]:
    return read_cards(DATA / "cards" / language)


@cache
def pool(language: str) -> Pool:
    folders = {name: f"builtin:{name}/{language}" for name in ("cards", "dialogues", "contrasts")}
    return load_pool(**folders, held_out="builtin:splits.json")


def lines(name: str) -> list[dict[str, Any]]:
    return [line for _, line in read_jsonl(DATA / name)]


def replies(dialogues: tuple[Dialogue, ...]) -> list[str]:
    return [m.content for d in dialogues for m in d.messages if m.role == "assistant"]


def whole(dialogue: Dialogue) -> str:
    return "\n".join(message.content for message in dialogue.messages)


def size(text: str, language: str) -> int:
    """Words by blanks in English, characters without blanks in Chinese: what a writer counts."""
    return len(text.split()) if language == "en" else len("".join(text.split()))


def card_files(language: str) -> list[Path]:
    return sorted((DATA / "cards" / language).iterdir())


def test_counts(language: str):
    n = {"en": 48, "zh": 28}[language]
    shipped = pool(language)
    assert (len(shipped.cards), len(shipped.dialogues), len(shipped.contrasts)) == (n, 3 * n, 6 * n)
    assert len(lines(f"general/{language}.jsonl")) == 60
    assert sum(len(read_prompts(DATA / f"prompts/{name}.jsonl")) for name in LANGUAGES) >= 150


def test_the_data_card_counts_what_is_there(language: str):
    column = 2 if language == "en" else 3
    table = [row.split("|") for row in (DATA / "README.md").read_text("utf-8").splitlines() if row.startswith("| `")]
    assert len(table) == 15
    for row in table:
        path = row[1].strip(" `").replace("LANG", language)
        assert int(row[column]) == count(path, language), path


def count(path: str, language: str) -> int:
    if path == "splits.json":
        return len(read_json(DATA / path)[language])
    files = [file for file in DATA.glob(path.replace("SLUG", "*")) if file.is_file()]
    if path.startswith("cards/"):
        return len(files)
    texts = [file.read_text("utf-8") for file in files]
    return sum(len(t.split("\n\n")) if path.endswith(".txt") else len(t.splitlines()) for t in texts)


def test_cards_are_version_two_and_complete(language: str):
    for file in card_files(language):
        card = read_json(file)
        data = card["data"]
        assert (card["spec"], card["spec_version"]) == ("chara_card_v2", "2.0"), file.name
        assert all(isinstance(data[key], str) for key in V2_TEXTS), file.name
        assert all(data[key].strip() for key in V2_FILLED), file.name
        assert isinstance(data["alternate_greetings"], list) and 2 <= len(data["tags"]) <= 5, file.name
        assert data["mes_example"].startswith("<START>\n{{user}}: "), file.name
        own = data["extensions"]["rlrp"]
        assert own["archetype"] and own["gender"] in ("female", "male", "other"), file.name
        assert isinstance(own["illeist"], bool), file.name
        length = sum(size(data[key], language) for key in ("description", "personality", "scenario"))
        low, high = (70, 140) if language == "en" else (100, 240)
        assert low <= length <= high, file.name


def test_cards_read_without_a_warning(language: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_cards(DATA / "cards" / language)
    assert {card.language for card in read.values()} == {language}
    assert len({card.name for card in read.values()}) == len(read)


def test_cards_differ_in_archetype(language: str):
    kinds = Counter(read_json(file)["data"]["extensions"]["rlrp"]["archetype"] for file in card_files(language))
    assert len(kinds) >= 10  # measured: 13 in either
    assert max(kinds.values()) <= 0.25 * sum(kinds.values())


def test_illeists_say_their_name_and_not_i(language: str):
    shipped = pool(language)
    speakers = {slug for slug, card in shipped.cards.items() if card.illeist}
    assert speakers == {slug for slug, card in shipped.cards.items() if is_illeist(card)}
    own = {id(shipped.cards[slug]) for slug in speakers}
    said = replies(tuple(d for d in shipped.dialogues if id(d.card) in own))
    pattern = r"\b(?:I|me|my|I'm|I'll)\b" if language == "en" else "我(?!们)"
    assert speakers and not [reply for reply in said if re.search(pattern, reply)]


def test_three_dialogues_a_card_alternating(language: str):
    ids = defaultdict(list)
    for dialogue in pool(language).dialogues:
        slug = pool(language).slug_of(dialogue.card)
        ids[slug].append(dialogue.id)
        roles = [message.role for message in dialogue.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2), dialogue.id
        assert len(roles) in (4, 6, 8), dialogue.id
    assert dict(ids) == {slug: [f"{slug}-{i}" for i in (1, 2, 3)] for slug in cards(language)}


def test_contrasts_are_matched_pairs(language: str):
    by_card: dict[str, list[Contrast]] = defaultdict(list)
    for contrast in pool(language).contrasts:
        by_card[contrast.card_slug].append(contrast)
        assert 0.6 < size(contrast.in_role, language) / size(contrast.faulty, language) < 1.6, contrast.id
    for slug, group in by_card.items():
        kinds = Counter(contrast.kind for contrast in group)
        assert kinds == {"biography": 2, "speaks_for_user": 2, "over_cooperative": 1, "contradicts_card": 1}, slug


def test_ids_are_unique_and_kinds_balanced(language: str):
    names = ["general/{}", "prompts/{}", "talks/{}", "evaluation/prompts_{}", "evaluation/over_cooperation_{}"]
    names.append("evaluation/general_{}")
    ids = [line["id"] for name in names for line in lines(name.format(language) + ".jsonl")]
    assert len(ids) == len(set(ids))
    kinds = Counter(line["kind"] for line in lines(f"general/{language}.jsonl"))
    assert kinds == {"arithmetic": 15, "logic": 15, "code": 15, "facts": 15}
    assert len({prompt.kind for prompt in read_prompts(DATA / f"prompts/{language}.jsonl")}) >= 10


def test_scripted_conversations_have_three_turns_after_the_first_and_personas_both_names(language: str):
    talks = read_prompts(DATA / f"talks/{language}.jsonl")
    assert {len(talk.then) for talk in talks} == {3}
    assert len({talk.kind for talk in talks}) >= 6
    said = [text for talk in talks for text in (talk.text, *talk.then)]
    assert near_duplicates(said, 0.4) == []
    personas = (DATA / f"users/{language}.txt").read_text("utf-8").strip().split("\n\n")
    assert all("{{char}}" in persona and "{{user}}" in persona for persona in personas)


def test_prompts_do_not_occur_in_dialogues(language: str):
    shipped = pool(language)
    said = {" ".join(units(m.content)) for d in shipped.dialogues for m in d.messages}
    prompts = read_prompts(DATA / f"prompts/{language}.jsonl")
    assert not [prompt.id for prompt in prompts if " ".join(units(prompt.text)) in said]


def test_no_reply_resembles_another(language: str):
    """Also across training and held-out characters, and between dialogues and contrasts; measured: none above 0.3."""
    shipped = pool(language)
    texts = replies(shipped.dialogues) + [text for c in shipped.contrasts for text in (c.in_role, c.faulty)]
    start = len(replies(shipped.dialogues))
    near = near_duplicates(texts, 0.3)
    # A faulty reply may begin like the good one it is matched with, at the next place in the list.
    assert not [pair for pair in near if pair[0] < start or (pair[0] - start) % 2 or pair[1] != pair[0] + 1]


def test_no_dialogue_or_card_resembles_another(language: str):
    shipped = pool(language)
    assert near_duplicates([whole(dialogue) for dialogue in shipped.dialogues], 0.15) == []
    described = [card.description + card.personality + card.greeting for card in shipped.cards.values()]
    assert near_duplicates(described, 0.15) == []


def training_texts(language: str) -> list[str]:
    shipped = pool(language)
    said = [m.content for d in shipped.dialogues for m in d.messages]
    said += [text for c in shipped.contrasts for text in (c.user, c.in_role, c.faulty)]
    for name in ("prompts", "talks"):
        said += [text for p in read_prompts(DATA / f"{name}/{language}.jsonl") for text in (p.text, *p.then)]
    return said + [m["content"] for line in lines(f"general/{language}.jsonl") for m in line["messages"]]


def evaluation_texts(language: str) -> list[str]:
    items = lines(f"evaluation/prompts_{language}.jsonl") + lines(f"evaluation/over_cooperation_{language}.jsonl")
    texts = [item["text"] for item in items]
    texts += [item["question"] for item in lines(f"evaluation/general_{language}.jsonl")]
    return texts + (DATA / f"evaluation/text_{language}.txt").read_text("utf-8").split("\n\n")


def test_evaluation_is_not_in_training(language: str):
    training, evaluation = training_texts(language), evaluation_texts(language)
    assert not {" ".join(units(t)) for t in training} & {" ".join(units(t)) for t in evaluation}
    near = near_duplicates([*training, *evaluation], 0.4)
    assert not [pair for pair in near if pair[0] < len(training) <= pair[1]]


def test_evaluation_shares_few_words_with_any_training_item(language: str):
    training = [frozenset(units(text)) for text in training_texts(language)]
    for text in evaluation_texts(language):
        words = frozenset(units(text))
        closest = max(len(words & other) / len(words | other) for other in training)
        assert closest < 0.6, text


def test_evaluation_questions_differ_and_have_answers(language: str):
    items = lines(f"evaluation/general_{language}.jsonl")
    assert len({" ".join(units(item["question"])) + str(item["answers"]) for item in items}) == len(items)
    assert all(item["answers"] and all(answer.strip() for answer in item["answers"]) for item in items)


def test_openings_are_not_a_device(language: str):
    said = replies(pool(language).dialogues)
    opening = 4 if language == "en" else 5
    ((_, most),) = Counter(tuple(units(reply)[:opening]) for reply in said).most_common(1)
    assert most / len(said) <= 0.01  # measured: no opening twice
    ((_, most),) = Counter(units(reply)[0] for reply in said).most_common(1)
    assert most / len(said) <= 0.13  # measured: en "I" 0.10, zh 0.04
    acting = sum(reply.startswith(("*", "（")) for reply in said) / len(said)
    assert 0.03 <= acting <= 0.25  # measured: en 0.13, zh 0.08
    asking = sum(reply.rstrip("*）").endswith(("?", "？")) for reply in said) / len(said)
    assert 0.1 <= asking <= 0.4  # measured: en 0.28, zh 0.29


def test_lengths_spread(language: str):
    lengths = [size(reply, language) for reply in replies(pool(language).dialogues)]
    deciles = statistics.quantiles(lengths, n=10)
    assert statistics.pstdev(lengths) / statistics.mean(lengths) >= 0.33  # measured: en 0.36, zh 0.40
    assert deciles[-1] / deciles[0] >= 2.5  # measured: en 17 to 55 words, zh 26 to 102 characters
    short, long = (12, 60) if language == "en" else (20, 90)
    assert sum(length < short for length in lengths) >= 0.04 * len(lengths)  # measured: en 0.07, zh 0.07
    assert sum(length >= long for length in lengths) >= 0.04 * len(lengths)  # measured: en 0.05, zh 0.11
    for dialogue_card in cards(language).values():
        own = [d for d in pool(language).dialogues if d.card == dialogue_card]
        sizes = [size(reply, language) for reply in replies(tuple(own))]
        assert max(sizes) >= 1.4 * min(sizes), dialogue_card.name


def test_vocabulary_is_wide(language: str):
    words = [word for reply in replies(pool(language).dialogues) for word in units(reply)]
    sample = Random(0).sample(words, 5000)
    distinct, ratio = {"en": (2800, 0.27), "zh": (1450, 0.20)}[language]
    assert len(set(words)) >= distinct  # measured: 3085 words, 1564 characters
    assert len(set(sample)) / len(sample) >= ratio  # measured: 0.29, 0.22
    assert len(set(pairwise(words))) / len(words) >= 0.7  # measured: 0.74, 0.76


def test_characters_share_no_phrases(language: str):
    length = 5 if language == "en" else 6
    users = defaultdict(set)
    for dialogue in pool(language).dialogues:
        for reply in replies((dialogue,)):
            found = units(reply)
            for i in range(len(found) - length + 1):
                users[tuple(found[i : i + length])].add(dialogue.id.rsplit("-", 1)[0])
    assert not {phrase: who for phrase, who in users.items() if len(who) > 2}


ASSISTANT = re.compile(
    r"\bas an ai\b|language model|how (?:can|may) i (?:help|assist)|happy to (?:help|assist)|let me know if"
    r"|feel free to|shiver down|testament to|barely above a whisper|eyes sparkling"
    r"|作为一?[个名](?:ai|人工智能|语言模型)|有什么可以帮|很高兴为您|请随时|希望对[你您]有"
    r"|嘴角勾起|眼中闪过一丝|深吸一口气|缓缓开口|不禁",
    re.IGNORECASE,
)


def test_no_assistant_and_no_cliche_in_role(language: str):
    shipped = pool(language)
    said = replies(shipped.dialogues) + [contrast.in_role for contrast in shipped.contrasts]
    assert not [reply for reply in said if ASSISTANT.search(reply)]


def test_the_blacklist_leaves_good_replies_alone(language: str):
    shipped = pool(language)
    samples = [
        Sample(dialogue.card, dialogue.messages[:i], dialogue.messages[i].content)
        for dialogue in shipped.dialogues
        for i in range(1, len(dialogue.messages), 2)
    ]
    hits = [score.reasons for score in BlacklistTerm().score(samples) if score.value]
    assert len(hits) <= 0.01 * len(samples), hits  # measured: none


def test_characters_of_text(language: str):
    """No control or invisible characters anywhere; marks of action as each language has them."""
    for file in files_of(language):
        found = re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff\ufffd]", unescaped(file))
        assert found is None, (file, found)
    shipped = pool(language)
    said = replies(shipped.dialogues) + [c.in_role for c in shipped.contrasts]
    for reply in said:
        if language == "zh":
            assert not re.search(r"[()*\",;!?]", reply), reply
            assert reply.count("（") == reply.count("）"), reply
        else:
            assert not re.search(r"[（）\u3000-\u9fff]", reply), reply
            assert reply.count("*") % 2 == 0, reply


def files_of(language: str) -> list[Path]:
    """The files in the folders of a language and those named after it."""
    files = [file for file in DATA.rglob("*.*") if file.parent.name == language or file.stem.endswith(language)]
    assert len(files) > 80
    return files


def unescaped(path: Path) -> str:
    """The text as a reader of the file sees it: JSON's escapes resolved."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), path.read_text("utf-8"))


def test_over_cooperation_patterns_know_compliance(language: str):
    examples = {line["id"]: line for _, line in read_jsonl(EXAMPLES / f"over_cooperation_{language}.jsonl")}
    items = lines(f"evaluation/over_cooperation_{language}.jsonl")
    assert examples.keys() == {item["id"] for item in items}
    for item in items:
        patterns = [re.compile(pattern, re.IGNORECASE) for pattern in item["comply_if"]]
        for reply in examples[item["id"]]["complies"]:
            assert any(pattern.search(reply) for pattern in patterns), (item["id"], reply)
        for reply in examples[item["id"]]["refuses"]:
            assert not any(pattern.search(reply) for pattern in patterns), (item["id"], reply)


def test_over_cooperation_patterns_spare_replies_in_role(language: str):
    """In-role replies to other requests match none of an item's patterns; measured: none."""
    said = [c.in_role for c in pool(language).contrasts if c.kind == "over_cooperative"]
    items = lines(f"evaluation/over_cooperation_{language}.jsonl")
    patterns = [re.compile(pattern, re.IGNORECASE) for item in items for pattern in item["comply_if"]]
    assert not [(reply, p.pattern) for reply in said for p in patterns if p.search(reply)]


def test_files_end_in_a_line_break_and_hold_json(language: str):
    for file in files_of(language):
        text = file.read_text("utf-8")
        assert text.endswith("\n") and not text.startswith("\ufeff"), file
        if file.suffix == ".jsonl":
            assert all(isinstance(json.loads(line), dict) for line in text.splitlines()), file

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlrp.dialogue import Pool, load_pool
from rlrp.errors import UserError


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Ten cards, one of them Chinese, with a dialogue and a contrast each."""
    cards, dialogues, contrasts = (tmp_path / name for name in ("cards", "d.jsonl", "c.jsonl"))
    cards.mkdir()
    turns = [{"role": "user", "content": "who goes there"}, {"role": "assistant", "content": "No one."}]
    lines, pairs = [], []
    for i in range(10):
        slug = f"card-{i}"
        words = "守着一盏灯的人。" if i == 9 else "Keeps a lamp."
        (cards / f"{slug}.json").write_text(json.dumps({"name": f"Keeper {i}", "description": words}))
        lines.append({"id": f"d{i}", "card": slug, "messages": turns})
        pairs.append({"id": f"c{i}", "card": slug, "kind": "biography", "user": "?", "in_role": "a", "faulty": "b"})
    lines.append({"id": "general", "messages": turns})
    lines.append({"id": "own", "card": {"name": "Keeper 3"}, "messages": turns})
    for path, content in ((dialogues, lines), (contrasts, pairs)):
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    return {"cards": str(cards), "dialogues": str(dialogues), "contrasts": str(contrasts)}


def test_held_out_slugs_split_everything(files: dict[str, Any]):
    pool = load_pool(**files, held_out=["card-3", "card-9"])
    assert set(pool.held_out_cards) == {"card-3", "card-9"}
    assert len(pool.train_cards) == 8
    # the dialogue with a card of its own follows the held-out card of the same name
    assert [d.id for d in pool.held_out_dialogues] == ["d3", "d9", "own"]
    assert len(pool.train_dialogues) == 9 and pool.train_dialogues[-1].id == "general"
    assert [c.id for c in pool.held_out_contrasts] == ["c3", "c9"]
    assert len(pool.train_contrasts) == 8


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 0.55, 0.7, 0.9]), st.integers(0, 100))
def test_a_fraction_holds_out_exactly_that_many(files: dict[str, Any], fraction: float, seed: int):
    pool = load_pool(**files, held_out=fraction, seed=seed)
    assert len(pool.held_out) == math.ceil(round(10 * fraction, 6))
    assert load_pool(**files, held_out=fraction, seed=seed).held_out == pool.held_out
    assert not pool.train_cards.keys() & pool.held_out_cards.keys()
    assert {*pool.train_dialogues} | {*pool.held_out_dialogues} == {*pool.dialogues}
    assert len(pool.train_dialogues) + len(pool.held_out_dialogues) == len(pool.dialogues)


def test_the_seed_changes_the_split_and_a_larger_fraction_contains_a_smaller(files: dict[str, Any]):
    splits = {load_pool(**files, held_out=0.3, seed=seed).held_out for seed in range(5)}
    assert len(splits) > 1
    assert load_pool(**files, held_out=0.2).held_out < load_pool(**files, held_out=0.5).held_out


def test_a_split_file_is_a_list_or_lists_by_language(files: dict[str, Any], tmp_path: Path):
    split = tmp_path / "split.json"
    split.write_text('["card-1", "card-9"]')
    assert load_pool(**files, held_out=str(split)).held_out == {"card-1", "card-9"}
    split.write_text('{"en": ["card-1"], "zh": ["card-9"], "fr": ["not read"]}')
    assert load_pool(**files, held_out=str(split)).held_out == {"card-1", "card-9"}
    split.write_text('{"en": ["card-1"]}')
    with pytest.raises(UserError, match="no list for 'zh'; it has en"):
        load_pool(**files, held_out=str(split))


@pytest.mark.parametrize("text", ['"card-1"', "[1]", '{"en": "card-1", "zh": []}'])
def test_a_malformed_split_is_refused(files: dict[str, Any], tmp_path: Path, text: str):
    split = tmp_path / "split.json"
    split.write_text(text)
    with pytest.raises(UserError, match="expected a list of slugs"):
        load_pool(**files, held_out=str(split))


@pytest.mark.parametrize("held_out", [1.0, -0.1, float("nan"), True])
def test_impossible_fractions_are_refused(files: dict[str, Any], held_out: Any):
    with pytest.raises(UserError, match="expected a fraction"):
        load_pool(**files, held_out=held_out)


def test_a_slug_that_names_no_card_is_refused(files: dict[str, Any]):
    with pytest.raises(UserError, match="no card is called 'card-77'; there are card-0, card-1"):
        load_pool(**files, held_out=["card-1", "card-77"])


def test_nothing_left_to_train_on_is_refused(files: dict[str, Any], tmp_path: Path):
    with pytest.raises(UserError, match="all 10 cards are held out"):
        load_pool(**files, held_out=0.99)
    one = tmp_path / "one.jsonl"
    one.write_text(Path(files["dialogues"]).read_text().splitlines()[0])
    with pytest.raises(UserError, match="all 1 dialogues belong to held-out cards"):
        load_pool(cards=files["cards"], dialogues=str(one), held_out=["card-0"])


def test_several_paths_and_a_slug_twice(files: dict[str, Any], tmp_path: Path):
    more = tmp_path / "more"
    more.mkdir()
    (more / "extra.json").write_text('{"name": "Extra"}')
    assert len(load_pool(cards=[files["cards"], str(more)], dialogues=None).cards) == 11
    (more / "card-1.json").write_text('{"name": "Another"}')
    with pytest.raises(UserError, match="a second card called 'card-1'"):
        load_pool(cards=[files["cards"], str(more)], dialogues=None)


def test_slug_of(files: dict[str, Any]):
    pool = load_pool(**files)
    assert [pool.slug_of(d.card) for d in pool.dialogues[:2] if d.card] == ["card-0", "card-1"]
    assert pool.slug_of(pool.dialogues[-1].card or pool.cards["card-0"]) is None


def test_nothing_is_held_out_by_default(files: dict[str, Any]):
    pool = load_pool(**files)
    assert isinstance(pool, Pool)
    assert pool.held_out == frozenset() and pool.train_dialogues == pool.dialogues


@pytest.mark.parametrize(("language", "cards", "held_out"), [("en", 48, 12), ("zh", 28, 7)])
def test_the_shipped_split(language: str, cards: int, held_out: int):
    folders = {name: f"builtin:{name}/{language}" for name in ("cards", "dialogues", "contrasts")}
    pool = load_pool(**folders, held_out="builtin:splits.json")
    assert (len(pool.cards), len(pool.held_out)) == (cards, held_out)
    assert len(pool.held_out_dialogues) == 3 * held_out
    assert len(pool.train_contrasts) == 6 * (cards - held_out)

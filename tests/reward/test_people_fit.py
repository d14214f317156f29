"""Fitting on people's ratings: problems whose answer is known, folds, and the model that comes back from disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_characters import Lang, base_replies, pool, sample
from made_ratings import lines, write_lines
from scipy.sparse import csr_matrix
from scipy.special import expit
from scipy.stats import spearmanr

from reward.people.columns import LENGTHS, StyleColumns, style_names, wording
from reward.people.fit import OTHERS, Table, aspects_of, by_language, fit_aspect
from reward.people.model import OVERALL, Columns, People, PeopleTerm
from reward.people.ratings import Rating, read_ratings
from rlrp.errors import UserError

IN_ROLE = "Ha! The glacier stays with me. You hear?"
FAULTY = "Certainly! I would be happy to help you with the glacier. Please let me know if you have any questions."


def ratings_of(folder: Path, language: Lang = "en", **options: Any) -> list[Rating]:
    return read_ratings(write_lines(folder / f"{language}.jsonl", lines(language, **options)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Two dimensions, of which the second wants the opposite."""
    given = ratings_of(tmp_path_factory.mktemp("r"), dimensions=["engagement", "wit"])
    return Table.of("en", [replace(r, score=6 - r.score) if r.dimension == "wit" else r for r in given], "")


@pytest.fixture(scope="module")
def people(table: Table) -> People:
    folds = table.folds()
    wanted = aspects_of(["engagement", "wit"], ["engagement"])
    aspects = {name: fit_aspect(table, aim, others, folds).aspect for name, (aim, others) in wanted.items()}
    return People({"en": table.model(aspects)}, {"training": {"ratings": 100}})


def numbers(table: Table, style: np.ndarray, scores: Sequence[float], **changes: Any) -> Table:
    """A table whose columns are given numbers; a character has five ratings in a row."""
    own = [
        replace(table.ratings[0], score=float(score), character=f"c{at // 5}", dimension="engagement")
        for at, score in enumerate(scores)
    ]
    empty = csr_matrix((len(own), 0), dtype=np.float32)
    columns = Columns(style.astype(np.float32), empty, np.zeros((len(own), 0), np.float32))
    return replace(table, ratings=changes.pop("ratings", own), columns=columns, **changes)


# -- columns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_style_column_has_its_name(language: Lang) -> None:
    samples = [sample(language), sample(language, "")]
    names = style_names(language)
    assert StyleColumns().rows(samples, language).shape == (2, len(names))
    assert StyleColumns().rows([], language).shape == (0, len(names))
    assert len(set(names)) == len(names) and set(names) >= LENGTHS


def test_columns_say_what_they_are_called() -> None:
    plain = sample("en", "Give me the anchor, you fool!")
    gesture = replace(plain, reply="*nods*")
    first, second = StyleColumns().rows([plain, gesture], "en")
    at = {name: place for place, name in enumerate(style_names("en"))}
    # Six words; log(1 + 6) and its square; one message of 26 characters, no earlier reply.
    assert first[at["length"]] == pytest.approx(np.log1p(6))
    assert first[at["length_squared"]] == pytest.approx(np.log1p(6) ** 2)
    assert first[at["user_length"]] == pytest.approx(np.log1p(len(plain.messages[-1].content)))
    assert first[at["earlier_length"]] == 0.0 and first[at["turns"]] == pytest.approx(np.log1p(1))
    assert (first[at["no_speech"]], second[at["no_speech"]]) == (0.0, 1.0)
    assert first[at["term:blacklist"]] == 0.0
    faulty = StyleColumns().rows([replace(plain, reply="As an AI language model, I cannot.")], "en")[0]
    assert faulty[at["term:blacklist"]] < 0


def test_wording_counts_characters_in_threes_and_not_only_whether_they_are_there() -> None:
    columns = wording().fit(["aab", "xaa"])
    assert set(columns.get_feature_names_out()) == {"a", "b", "x", "aa", "ab", "xa", "aab", "xaa"}
    once, often = columns.transform(["x", "xbxbx"]).toarray()[:, columns.vocabulary_["x"]]
    assert once < often < 3 * once


# -- fitting -------------------------------------------------------------------------------------------------------


def test_targets_are_in_standard_deviations_of_their_dimension(table: Table) -> None:
    given = [
        replace(rating, dimension="ab"[at % 2], score=score)
        for at, (rating, score) in enumerate(zip(table.ratings[:4], [1, 10, 3, 30], strict=True))
    ]
    own = replace(table, ratings=given)
    assert own.targets() == pytest.approx([-1.0, -1.0, 1.0, 1.0])
    assert own.weights(["a"], 0.25).tolist() == [1.0, 0.25, 1.0, 0.25]


@pytest.mark.parametrize("by", ["character", "generator"])
def test_folds_hold_every_row_once_and_never_split_a_character(by: str, table: Table) -> None:
    names = np.array([getattr(rating, by) for rating in table.ratings])
    unseen = []
    for seen, left_out in table.folds(by):
        assert not set(names[seen]) & set(names[left_out])
        assert len(seen) + len(left_out) == len(names)
        unseen += left_out.tolist()
    assert sorted(unseen) == list(range(len(names)))


def test_folds_hang_on_the_seed_alone(table: Table) -> None:
    def parts(seed: int) -> list[list[int]]:
        return [left_out.tolist() for _, left_out in table.folds(seed=seed)]

    assert parts(1) == parts(1)
    assert parts(1) != parts(2)


def test_one_character_cannot_be_left_out(table: Table) -> None:
    alone = replace(table, ratings=[replace(rating, character="Ada") for rating in table.ratings])
    with pytest.raises(UserError, match="all ratings have one character"):
        alone.folds()


def test_a_straight_line_is_found_and_nothing_else_is(table: Table) -> None:
    rng = np.random.default_rng(0)
    style = rng.standard_normal((200, 3))
    truth = 2.0 * style[:, 0] - style[:, 1]
    fitted = fit_aspect(made := numbers(table, style, truth), ["engagement"], 0.0, made.folds())
    weight = fitted.aspect.style
    # A ridge shrinks every coefficient of independent columns alike, so their ratio stays.
    assert weight[0] / weight[1] == pytest.approx(-2.0, rel=0.15)
    assert abs(weight[2]) < 0.1 * abs(weight[0])
    assert spearmanr(fitted.left_out, truth).statistic > 0.95
    # In standard deviations of what it says of characters left out.
    assert fitted.left_out.mean() == pytest.approx(0.0, abs=1e-4)
    assert fitted.left_out.std() == pytest.approx(1.0, abs=1e-4)


def test_noise_earns_nothing_on_characters_left_out(table: Table) -> None:
    rng = np.random.default_rng(1)
    made = numbers(table, rng.standard_normal((200, 30)), rng.standard_normal(200))
    left_out = fit_aspect(made, ["engagement"], 0.0, made.folds()).left_out
    # 200 independent ranks: beyond 4 standard errors (0.07 each) once in about 16,000 draws; the seed is fixed.
    assert abs(spearmanr(left_out, [r.score for r in made.ratings]).statistic) < 0.28


def test_what_is_known_of_a_character_does_not_help_with_it(table: Table) -> None:
    """Each character has its own column and its own mean: learnt by heart, and of no use for one that is left out."""
    rng = np.random.default_rng(2)
    columns, means = np.repeat(np.eye(20), 5, axis=0), np.repeat(rng.standard_normal(20), 5)
    made = numbers(table, columns * 10, means)
    left_out = fit_aspect(made, ["engagement"], 0.0, made.folds()).left_out
    assert spearmanr(left_out, means).statistic < 0.3


def test_the_calibration_says_how_often_it_is_good(table: Table) -> None:
    rng = np.random.default_rng(3)
    style = rng.standard_normal((400, 1))
    good = rng.random(400) < expit(2.0 * style[:, 0])
    fitted = fit_aspect(made := numbers(table, style, good), ["engagement"], 0.0, made.folds())
    said = expit(fitted.left_out * fitted.aspect.slope + fitted.aspect.offset)
    assert said.mean() == pytest.approx(good.mean(), abs=0.01)
    high, low = said > 0.8, said < 0.2
    assert good[high].mean() > 0.75 and good[low].mean() < 0.25


def test_ratings_of_other_dimensions_count_less(table: Table) -> None:
    """Two dimensions that want the opposite of one column: the aim's sign wins."""
    rng = np.random.default_rng(4)
    style = rng.standard_normal((200, 1))
    made = numbers(table, style, style[:, 0])
    turned = [
        replace(rating, dimension="wit", score=-rating.score) if at % 2 else rating
        for at, rating in enumerate(made.ratings)
    ]
    made = replace(made, ratings=turned)
    assert fit_aspect(made, ["engagement"], OTHERS, made.folds()).aspect.style[0] > 0
    assert fit_aspect(made, ["wit"], OTHERS, made.folds()).aspect.style[0] < 0


def test_blocks_that_are_not_asked_for_weigh_nothing(table: Table) -> None:
    aspect = fit_aspect(table, ["engagement"], 0.0, table.folds(), blocks=["style"]).aspect
    assert not aspect.wording.any() and aspect.style.any()


def test_overall_is_the_aim_even_if_people_rated_an_overall() -> None:
    found = aspects_of(["engagement", OVERALL], ["engagement"])
    assert found == {OVERALL: (("engagement",), OTHERS), "engagement": (("engagement",), 0.0)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda at, r: replace(r, dimension="wit" if at == 0 else "engagement"), "en: wit: ratings of too few char"),
        (lambda at, r: replace(r, dimension="wit", score=3.0) if at % 2 else r, "en: wit: all replies have the same"),
    ],
)
def test_a_dimension_that_cannot_be_learnt_is_named(change: Any, expected: str, table: Table) -> None:
    own = replace(table, ratings=[change(at, rating) for at, rating in enumerate(table.ratings)])
    with pytest.raises(UserError, match=expected):
        fit_aspect(own, ["wit"], 0.0, own.folds())


def test_too_few_ratings_and_replies_without_words_are_refused(tmp_path: Path) -> None:
    given = ratings_of(tmp_path)
    with pytest.raises(UserError, match="en: 39 ratings; at least 40 are needed"):
        Table.of("en", given[:39], "")
    silent = [replace(rating, sample=replace(rating.sample, reply="")) for rating in given]
    with pytest.raises(UserError, match="en: the replies share no wording"):
        Table.of("en", silent, "")


def test_languages_are_fitted_apart(tmp_path: Path) -> None:
    mixed = [*ratings_of(tmp_path), *ratings_of(tmp_path, "zh")]
    assert [(language, len(own)) for language, own in by_language(mixed)] == [("zh", 50), ("en", 50)]


# -- the term ------------------------------------------------------------------------------------------------------


def test_a_reply_in_role_is_worth_more_and_the_worst_wording_is_marked(people: People) -> None:
    good, bad = PeopleTerm(people).score([sample("en", IN_ROLE, at=9), sample("en", FAULTY, at=9)])
    assert good.value is not None and bad.value is not None
    assert 0 <= bad.value < 0.5 < good.value <= 1
    assert set(good.parts) == {"style", "wording", "reading"} and good.parts["reading"] == 0.0
    assert bad.reasons[0].startswith("people: ") and "rate it well (style " in bad.reasons[0]
    assert bad.spans and all(FAULTY[start:end].lower().strip() in bad.reasons[0] for start, end in bad.spans)


def test_marks_stand_in_their_place_behind_letters_that_grow_in_lower_case(people: People) -> None:
    shifted = "İİİİİ " + FAULTY
    score = PeopleTerm(people).score([sample("en", shifted, at=9)])[0]
    assert score.spans
    for start, end in score.spans:
        assert f'"{shifted[start:end].lower().strip()}"' in score.reasons[0]


def test_it_abstains_for_a_language_without_a_model_and_not_for_silence(people: People) -> None:
    other, silent, dots = PeopleTerm(people).score([sample("zh"), sample("en", ""), sample("en", "…?!")])
    assert other.value is None and other.reasons == ("people: no model for zh",)
    assert (silent.value, dots.value) == (0.0, 0.0)


def test_samples_are_scored_in_order_whatever_the_batch(people: People) -> None:
    term = PeopleTerm(people)
    mixed = [sample("en", IN_ROLE), sample("zh"), sample("en", ""), sample("en", FAULTY, at=3)]
    together = [score.value for score in term.score(mixed)]
    alone = [term.score([one])[0].value for one in mixed]
    assert together == pytest.approx(alone, abs=1e-6)
    assert term.score([]) == []


def test_aspects_share_columns_and_not_values(people: People) -> None:
    one = [sample("en", FAULTY), sample("en", IN_ROLE)]
    overall, wit = PeopleTerm(people), PeopleTerm(people, "wit")
    before = [score.value for score in wit.score(one)]
    assert before[0] > 0.5 > before[1]
    low, high = (score.value for score in overall.score(one))
    assert low < 0.5 < high
    assert [score.value for score in wit.score(one)] == before
    # Other samples in the same list are not mistaken for the last ones.
    turned = one[::-1]
    assert [score.value for score in wit.score(turned)] == pytest.approx(before[::-1], abs=1e-6)


def test_an_aspect_that_was_not_rated_is_refused(people: People) -> None:
    with pytest.raises(UserError, match="no aspect 'charm'; there are engagement, overall, wit"):
        PeopleTerm(people, "charm")


# -- on disk -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(people: People, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "people"
    people.save(folder)
    return folder


def test_a_stored_model_scores_as_before(people: People, stored: Path) -> None:
    made = pool("en")
    samples = [sample("en", reply.reply, at) for at, reply in enumerate(base_replies(made))]
    samples += [sample("en", contrast.in_role, at) for at, contrast in enumerate(made.contrasts)]
    after = People.load(stored)
    for aspect in (OVERALL, "engagement", "wit"):
        before, again = (PeopleTerm(own, aspect).score(samples) for own in (people, after))
        assert [s.value for s in again] == pytest.approx([s.value for s in before], abs=1e-6)
        assert [s.spans for s in again] == [s.spans for s in before]
    assert after.config["training"] == {"ratings": 100}
    assert {file.suffix for file in stored.iterdir()} == {".json", ".safetensors"}


def test_saving_what_was_loaded_writes_the_same_tensors(stored: Path, tmp_path: Path) -> None:
    People.load(stored).save(tmp_path / "again")
    for name in ("head.safetensors", "vocabulary.json"):
        assert (tmp_path / "again" / name).read_bytes() == (stored / name).read_bytes()


def test_the_same_ratings_fit_the_same_model(tmp_path: Path) -> None:
    given = ratings_of(tmp_path)
    for name in ("one", "two"):
        own = Table.of("en", given, "")
        fitted = fit_aspect(own, ["engagement"], OTHERS, own.folds(seed=1))
        People({"en": own.model({OVERALL: fitted.aspect})}).save(tmp_path / name)
    assert (tmp_path / "one" / "config.json").read_text() == (tmp_path / "two" / "config.json").read_text()


def config_with(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def entry(folder: Path, **changes: Any) -> dict[str, Any]:
    own = json.loads((folder / "config.json").read_text())["languages"]["en"]
    return {"en": {**own, **changes}}


def truncated(folder: Path) -> None:
    file = folder / "head.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (truncated, "head.safetensors: is not the file"),
        (lambda folder: (folder / "vocabulary.json").write_text('{"en": []}'), "vocabulary.json: is not the file"),
        (lambda folder: (folder / "vocabulary.json").unlink(), "vocabulary.json: is missing"),
        (lambda folder: (folder / "config.json").write_text("{oops"), "config.json: line 1: is not JSON"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (lambda folder: config_with(folder, version=99), "got 99, need"),
        (lambda folder: config_with(folder, format="other"), "got 'other', expected 'rlrp-people'"),
        (lambda folder: config_with(folder, columns=[0, 0]), "columns: got [0, 0], need"),
        (lambda folder: config_with(folder, languages=["en"]), "does not fit its tensors"),
        (lambda folder: config_with(folder, languages={"zh": {}}), "does not fit its tensors"),
        (lambda folder: config_with(folder, languages=entry(folder, style=["length"])), "names other columns than"),
        (lambda folder: config_with(folder, languages=entry(folder, aspects=["charm"])), "'en.charm.style'"),
        (lambda folder: config_with(folder, languages=entry(folder, reader="x")), "has the wrong shape"),
    ],
)
def test_a_damaged_directory_is_one_line(damage: Any, expected: str, stored: Path, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    shutil.copytree(stored, folder)
    damage(folder)
    with pytest.raises(UserError) as caught:
        People.load(folder)
    assert expected in str(caught.value) and str(folder) in str(caught.value)


def test_a_directory_that_is_not_there_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory; `rlrp reward train` makes"):
        People.load(tmp_path / "gone")

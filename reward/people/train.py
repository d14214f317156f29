"""Training of a whole reward from people's ratings: fitted, cross-validated, plotted, with a ``reward.yaml`` to use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console

from reward import plots
from reward.config import VERSION, read_reward_config
from reward.people.figures import HIGH, LOW, agreement, calibration, published, shortness
from reward.people.fit import MIX, Fitted, Table, aspects_of, by_language, fit_aspect
from reward.people.model import OVERALL, People, PeopleModel
from reward.people.ratings import Rating, read_ratings
from reward.people.report import CARD, data_text, figures_text, print_report
from reward.people.settings import DEFAULT_WEIGHTS, RatingsConfig
from reward.term_configs import config_class
from reward.text import Language
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.files import write_json, write_text

_ABSENT = "give the folder of CharacterBench, or a .jsonl file of your own ratings: --set data=PATH"
Floats = NDArray[np.float64]


def train_on_ratings(config: RatingsConfig) -> dict[str, Any]:
    """Fit, cross-validate, and write people/, reward.yaml, validation.json, README.md and plots into the run directory.

    Returns:
        What validation.json holds.

    Raises:
        UserError: no data, too little of it, or a reader that cannot be loaded.
    """
    started, out, console = time.perf_counter(), config.run, Console(stderr=True)

    def say(text: str) -> None:
        console.print(f"reward {time.perf_counter() - started:5.1f} s  {text}", highlight=False)

    found = cross_validate(config, say)
    report = found.report
    people = People(found.models, {"training": report["data"], "measured": _summary(report)})
    people.save(out / "people")
    _write_reward(out, config, people)
    report["seconds"] = round(time.perf_counter() - started, 1)
    write_json(out / "validation.json", report)
    found.draw(out)
    write_text(out / "README.md", CARD.format(figures=figures_text(report), data=data_text(report["data"])))
    print_report(report)
    say(f"done: {out / 'reward.yaml'}")
    return report


@dataclass(frozen=True)
class CrossValidated:
    """The ratings and models of all languages, and what validation.json holds of them."""

    tables: dict[Language, Table]
    models: dict[Language, PeopleModel]
    report: dict[str, Any]
    drawn: dict[str, Any]

    def draw(self, folder: Path) -> None:
        """Write the plots."""
        plots.draw_roc(folder / "roc.png", self.drawn["roc"])
        plots.draw_calibration(folder / "calibration.png", self.drawn["calibration"])
        plots.draw_agreement(folder / "agreement.png", self.drawn["agreement"], ("people", "published", "length"))


def cross_validate(config: RatingsConfig, say: Callable[[str], None]) -> CrossValidated:
    """Fit every language's model, and measure it on replies of characters (and of generators) left out.

    Raises:
        UserError: no data, too little of it, or a reader that cannot be loaded.
    """
    ratings = read_rated(config)
    tables: dict[Language, Table] = {}
    models: dict[Language, PeopleModel] = {}
    report: dict[str, Any] = {"data": _described(ratings), "languages": {}, "readers": dict(config.readers)}
    drawn: dict[str, Any] = {"roc": {}, "calibration": {}, "agreement": {}}
    for language, own in by_language(ratings):
        say(f"{language}: {len(own)} ratings")
        reader = config.readers.get(language) or ""
        table = tables[language] = Table.of(language, own, reader, accept_terms=config.accept_terms)
        models[language], report["languages"][language] = _fit_language(table, config, drawn)
    return CrossValidated(tables, models, report, drawn)


def read_rated(config: RatingsConfig) -> list[Rating]:
    """The ratings that the settings name, which must be of every dimension of the aim."""
    if config.data is None:
        raise UserError(_ABSENT, place="data")
    ratings = read_ratings(config.data, config.languages)
    dimensions = {rating.dimension for rating in ratings}
    for dimension in config.aim:
        if dimension not in dimensions:
            there = ", ".join(sorted(dimensions)) or "no ratings"
            raise UserError(f"no rating is of {dimension!r}; there are {there}", file=config.data, place="aim")
    return ratings


def _fit_language(table: Table, config: RatingsConfig, drawn: dict[str, Any]) -> tuple[PeopleModel, dict[str, Any]]:
    """The language's model, and its figures from replies of characters (or generators) left out."""
    ratings, seed = table.ratings, config.seed
    folds = table.folds("character", seed)
    wanted = aspects_of(sorted(set(table.dimensions)), config.aim)
    cost = {OVERALL: config.register_cost.get(table.language, 0.0)}
    fitted = {
        name: fit_aspect(table, aim, others, folds, register=cost.get(name, 0.0))
        for name, (aim, others) in wanted.items()
    }
    scores = _scores(table, config, fitted, folds)
    found = {name: agreement(own, ratings, config.aim, seed=seed) for name, own in scores.items()}
    generators = sorted({rating.generator for rating in ratings})
    if len(generators) > 1:
        others = fit_aspect(table, *wanted[OVERALL], table.folds("generator"), register=cost[OVERALL]).left_out
        found["people, unseen generators"] = agreement(others, ratings, config.aim, seed=seed)
    own_dimension = np.array([fitted[r.dimension].left_out[at] for at, r in enumerate(ratings)])
    found["own term"] = agreement(own_dimension, ratings, (), seed=seed)
    aimed = np.isin(table.dimensions, config.aim)
    aspect, good = fitted[OVERALL].aspect, table.targets()[aimed] > 0
    odds = fitted[OVERALL].left_out[aimed] * aspect.slope + aspect.offset
    calibrated = calibration(1 / (1 + np.exp(-odds)), good)
    _collect(drawn, table, config, scores, found, calibrated)
    figures = {"agreement": found, "calibration": calibrated, "generators": generators}
    return table.model({name: own.aspect for name, own in fitted.items()}), figures


def _scores(
    table: Table, config: RatingsConfig, fitted: Mapping[str, Fitted], folds: Sequence[Any]
) -> dict[str, Floats]:
    """Every score that is compared: the term, its blocks alone, and what it must beat."""
    aim, others = aspects_of((), config.aim)[OVERALL]
    overall = fitted[OVERALL]
    probability = 1 / (1 + np.exp(-(overall.left_out * overall.aspect.slope + overall.aspect.offset)))
    samples = [rating.sample for rating in table.ratings]
    rules = {name: _values(name, samples) for name in {**DEFAULT_WEIGHTS, **config.weights} if name != "people"}
    scores: dict[str, Any] = {"people": overall.left_out, "total": _total(config, probability, rules)}
    for block in MIX:
        if getattr(table.columns, block).shape[1]:
            scores[f"{block} alone"] = fit_aspect(table, aim, others, folds, blocks=[block]).left_out
    scores |= {name: values for name, values in rules.items() if name == "dissonance"}
    scores["length"] = shortness(table.ratings)
    judge = published(table.ratings)
    if np.isfinite(judge).any():
        scores["published"] = judge
    return scores


def _values(name: str, samples: Sequence[Sample]) -> Floats:
    """What a term without a model gives, nan where it abstains."""
    config = config_class(name)
    if config is None or name == "people":
        raise UserError(f"{name!r} is no term that needs no model", place=f"weights.{name}")
    term = config.model_validate({"weight": 0.0}).build(name, Path())
    return np.array([np.nan if score.value is None else score.value for score in term.score(samples)])


def _total(config: RatingsConfig, people: Floats, rules: Mapping[str, Floats]) -> Floats:
    """The composite as ``reward.yaml`` will have it, with the people term's left-out predictions."""
    weights = {**DEFAULT_WEIGHTS, **config.weights}
    return weights["people"] * people + sum(weights[name] * np.nan_to_num(own) for name, own in rules.items())


def _collect(
    drawn: dict[str, Any],
    table: Table,
    config: RatingsConfig,
    scores: Mapping[str, Floats],
    found: Mapping[str, Any],
    calibrated: Mapping[str, Any],
) -> None:
    labels = np.array([rating.score for rating in table.ratings])
    for dimension in config.aim:
        rows = (table.dimensions == dimension) & ((labels == LOW) | (labels >= HIGH))
        compared = [name for name in ("people", "dissonance", "length", "published") if name in scores]
        drawn["roc"][f"{table.language} {dimension}"] = {
            name: (labels[rows] >= HIGH, np.asarray(scores[name], float)[rows]) for name in compared
        }
    drawn["calibration"][table.language] = calibrated
    drawn["agreement"][table.language] = {
        name: found[name]["spearman"] if name in found else {} for name in ("people", "published", "length")
    }


def _write_reward(out: Path, config: RatingsConfig, people: People) -> None:
    """reward.yaml: the overall aspect, the rule terms, and every dimension as a logged term."""
    weights = {**DEFAULT_WEIGHTS, **config.weights}
    terms: dict[str, dict[str, Any]] = {}
    for name, weight in weights.items():
        terms[name] = {"weight": float(weight)}
        if name == "people":
            terms[name] |= {"model": "people", "neutral": 0.5}
    names = sorted({name for model in people.models.values() for name in model.aspects} - {OVERALL})
    for name in names:
        terms[f"people.{name}"] = {"weight": 0.0, "model": "people", "neutral": 0.5, "aspect": name}
    text = yaml.safe_dump({"version": VERSION, "terms": terms}, sort_keys=False, default_flow_style=None, width=110)
    write_text(out / "reward.yaml", f"{_HEADER}{text}")
    read_reward_config(out / "reward.yaml")


def _described(ratings: Sequence[Rating]) -> dict[str, Any]:
    return {
        "ratings": len(ratings),
        "items": len({rating.item for rating in ratings}),
        "characters": len({rating.character for rating in ratings}),
        "generators": sorted({rating.generator for rating in ratings}),
        "dimensions": sorted({rating.dimension for rating in ratings}),
    }


def _summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The AUC of the term by language and dimension, for the model's own config."""
    return {
        language: {dimension: own["value"] for dimension, own in figures["agreement"]["people"]["auc"].items()}
        for language, figures in report["languages"].items()
    }


_HEADER = """\
# A reward learnt from people's ratings, written by `rlrp reward train`. Change weights as you like; a weight of 0 logs
# a term without optimising it. `neutral` stands in where a whole group abstains.
"""

"""Training of a whole reward from people's ratings: fitted, cross-validated, plotted, with a ``reward.yaml`` to use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from rich.console import Console
from rich.table import Table as ScreenTable
from rich.text import Text

from reward.config import VERSION, read_reward_config
from reward.people import plots
from reward.people.figures import (
    HIGH,
    LOW,
    agreement,
    calibration,
    cell,
    published,
    shortness,
)
from reward.people.fit import MIX, Fitted, Table, aspects_of, by_language, fit_aspect
from reward.people.model import OVERALL, People, PeopleModel
from reward.people.ratings import Rating, read_ratings
from reward.term_configs import config_class
from reward.text import Language
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.files import read_text, write_json, write_text

KIND = "ratings"
"""What ``kind`` says in the YAML file of such a reward."""
Floats = NDArray[np.float64]
_ABSENT = "give the folder of CharacterBench, or a .jsonl file of your own ratings: --set data=PATH"


class RatingsConfig(BaseModel):
    """One reward learnt from ratings. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    kind: Literal["ratings"]
    name: str = Field("reward", pattern=r"^[\w.-]+$")
    run_dir: str | None = None
    """Where everything goes; null is ``runs/<name>``."""
    seed: Annotated[int, Field(ge=0)] = 0
    data: str | None = None
    """A folder of CharacterBench, or JSON lines of ``rlrp reward score`` with ``ratings`` (and ``generator``)."""
    languages: list[Language] = ["zh", "en"]
    aim: Annotated[list[str], Field(min_length=1)] = ["engagement", "human_likeness"]
    """The dimensions that the reward itself is about; each of the others becomes a logged term."""
    readers: dict[Language, str | None] = Field(default_factory=dict)
    """By language, a language model whose hidden states are used too; null without."""
    accept_terms: bool = False
    """Accept the terms of a packaged model that has some."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weights of terms in the reward, in place of people 1, dissonance 0.1 and blacklist 0.1."""
    curve: list[str] = []
    """Readers that ``rlrp reward validate`` compares in every language, the smallest first."""

    @field_validator("weights")
    @classmethod
    def _of_terms_without_a_model(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            own = config_class(name)
            if name != "people" and (own is None or "model" in own.model_fields):
                problem = "only people and built-in terms that need no model have a weight here"
                raise PydanticCustomError("weights", problem)
        return weights

    @property
    def run(self) -> Path:
        return Path(self.run_dir or f"runs/{self.name}")


DEFAULT_WEIGHTS = {"people": 1.0, "dissonance": 0.1, "blacklist": 0.1}


def read_ratings_config(path: str | Path, overrides: Sequence[str] = ()) -> RatingsConfig | None:
    """The settings of a file with ``kind: ratings``; None for any other file.

    Raises:
        UserError: not YAML, an unknown key, a wrong value or override.
    """
    try:
        raw = yaml.safe_load(read_text(path))
    except yaml.YAMLError:
        return None  # whoever reads it as an experiment says what is wrong
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        return None
    for override in overrides:
        key, equals, value = override.partition("=")
        *parents, last = key.strip().split(".")
        if not equals or not last or len(parents) > 1:
            raise UserError(f"got {override!r}, expected KEY=VALUE such as data=PATH", place="--set")
        target = raw.setdefault(parents[0], {}) if parents else raw
        if not isinstance(target, dict):
            raise UserError(f"{parents[0]!r} is not a section", place=f"--set {key}")
        try:
            target[last] = value if key == "data" else yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"got {value!r}, which is not YAML", place=f"--set {key}") from None
    try:
        return RatingsConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(RatingsConfig.model_fields)
            raise UserError(f"unknown key; there are {known}", file=path, place=place) from None
        raise UserError(f"got {first['input']!r}: {first['msg']}", file=path, place=place) from None


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

    ratings = _read(config)
    models: dict[Language, PeopleModel] = {}
    report: dict[str, Any] = {"data": _described(ratings), "languages": {}, "readers": dict(config.readers)}
    drawn: dict[str, Any] = {"roc": {}, "calibration": {}, "agreement": {}}
    for language, own in by_language(ratings):
        say(f"{language}: {len(own)} ratings")
        table = Table.of(language, own, config.readers.get(language) or "", accept_terms=config.accept_terms)
        models[language], report["languages"][language] = _fit_language(table, config, drawn)
    people = People(models, {"training": report["data"], "measured": _summary(report)})
    people.save(out / "people")
    _write_reward(out, config, people)
    report["seconds"] = round(time.perf_counter() - started, 1)
    write_json(out / "validation.json", report)
    plots.draw_roc(out / "roc.png", drawn["roc"])
    plots.draw_calibration(out / "calibration.png", drawn["calibration"])
    plots.draw_agreement(out / "agreement.png", drawn["agreement"], ("people", "published", "length"))
    write_text(out / "README.md", _CARD.format(figures=figures_text(report), data=_data_text(report["data"])))
    print_report(report)
    say(f"done: {out / 'reward.yaml'}")
    return report


def _read(config: RatingsConfig) -> list[Rating]:
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
    fitted = {name: fit_aspect(table, aim, others, folds) for name, (aim, others) in wanted.items()}
    scores = _scores(table, config, fitted, folds)
    found = {name: agreement(own, ratings, config.aim, seed=seed) for name, own in scores.items()}
    generators = sorted({rating.generator for rating in ratings})
    if len(generators) > 1:
        others = fit_aspect(table, *wanted[OVERALL], table.folds("generator")).left_out
        found["people, unseen generators"] = agreement(others, ratings, config.aim, seed=seed)
    own_dimension = np.array([fitted[r.dimension].left_out[at] for at, r in enumerate(ratings)])
    found["each dimension's own term"] = agreement(own_dimension, ratings, (), seed=seed)
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


def print_report(report: Mapping[str, Any]) -> None:
    """Tables of what validation.json holds."""
    console = Console()
    for language, figures in report["languages"].items():
        found = figures["agreement"]
        for dimension in sorted(found["people"]["auc"]):
            title = Text(f"{language}, {dimension}: rated {LOW:g} against {HIGH:g} and more", style="table.title")
            screen = ScreenTable("score", "AUC (95 %)", "same generator", "length out", title=title, box=None)
            for name, own in found.items():
                if own["auc"]:
                    screen.add_row(name, *_cells(own["auc"].get(dimension)))
            console.print(screen)
        screen = ScreenTable(title=f"{language}: Spearman with people (95 %)", box=None)
        screen.add_column("dimension", no_wrap=True)
        shown = [name for name in _SPEARMAN if name in found]
        for name in shown:
            screen.add_column(name, no_wrap=True)
        for dimension in sorted(found["people"]["spearman"]):
            screen.add_row(Text(dimension), *(cell(found[name]["spearman"].get(dimension)) for name in shown))
        console.print(screen)
        own = figures["calibration"]
        console.print(f"{language}: calibration error {own['ece']:.3f} (n {own['n']})\n", highlight=False)


_SPEARMAN = ("people", "each dimension's own term", "length", "published")


def _cells(figure: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if figure is None:
        return "-", "-", "-"
    within, length_out = (
        "-" if (v := figure[key]) is None else f"{v:.2f}" for key in ("within_generator", "without_length")
    )
    return cell(figure), within, length_out


def figures_text(report: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = []
    for language, figures in report["languages"].items():
        found = figures["agreement"]
        dimensions = sorted(found["people"]["auc"])
        lines += [
            f"### {language}",
            "",
            "| AUC | " + " | ".join(dimensions) + " |",
            "|---" * (len(dimensions) + 1) + "|",
        ]
        for name, own in found.items():
            if own["auc"]:
                lines.append(f"| {name} | " + " | ".join(cell(own["auc"].get(d)) for d in dimensions) + " |")
        shown = [name for name in _SPEARMAN if name in found]
        lines += ["", "| Spearman | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
        for dimension in sorted(found["people"]["spearman"]):
            cells = [cell(found[name]["spearman"].get(dimension)) for name in shown]
            lines.append(f"| {dimension} | " + " | ".join(cells) + " |")
        own = figures["calibration"]
        lines += ["", f"Calibration error {own['ece']:.3f} (n {own['n']}).", ""]
    return "\n".join(lines)


def _data_text(data: Mapping[str, Any]) -> str:
    return (
        f"{data['ratings']} ratings of {data['items']} replies of {data['characters']} characters, "
        f"written by {', '.join(data['generators']) or 'unknown models'}."
    )


_HEADER = """\
# A reward learnt from people's ratings, written by `rlrp reward train`. Change weights as you like; a weight of 0 logs
# a term without optimising it. `neutral` stands in where a whole group abstains.
"""
_CARD = """\
# A reward learnt from people's ratings

`people/` predicts how probable it is that people rate a reply above the middle: a ridge regression on style, on
wording (character n-grams) and, where a reader is set, on a language model's hidden states. Linear models in
safetensors and JSON; nothing in them is code. `reward.yaml` makes a reward of it; the terms `people.DIMENSION` are
logged and have no weight.

Whoever passes the model on passes on what it learnt from: mind the licence of the ratings.

## Data

{data}

## Measured

Ten-fold cross-validation by character; `people, unseen generators` leaves whole generators out instead. AUC tells
replies rated 2 (an assistant's or an encyclopaedia's manner) from those rated 4 and 5; in brackets 95 % intervals over
characters. `length` is the shorter reply first; `published` the benchmark's own judge without a reference.

{figures}
![ROC](roc.png)
![Calibration](calibration.png)
![Agreement](agreement.png)
"""

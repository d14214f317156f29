"""``rlrp reward validate``: everything that is known of a reward, measured, printed, and written as JSON and plots."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from reward import plots
from reward.config import load_reward, reward_hash
from reward.dissonance.score import DissonanceTerm
from reward.negatives import replies_of
from reward.people.ratings import read_ratings
from reward.people.settings import RatingsConfig
from reward.people.train import cross_validate
from reward.text import Language
from reward.validate import curves, held_out_exam, measure_terms, remembering
from reward.validation.best_of import Drawn, measure_best_of
from reward.validation.contradiction import measure_contradiction
from reward.validation.dissonance import measure_dissonance
from reward.validation.people import measure_reward, reader_curve
from reward.validation.speed import measure_speed
from reward.validation.tables import print_validation
from rlrp.dialogue import Pool, load_pool
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError
from rlrp.files import write_json

CHARACTERBENCH = "characterbench"
_LANGUAGES: tuple[Language, ...] = ("zh", "en")
_AIM = ("engagement", "human_likeness")
_COMPARED = ("total", "published", "length alone")
_SPEED_REPLIES = 400


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Args:
        reward: the ``reward.yaml``; its terms are measured as they are.
        out: the folder for validation.json and the plots.
        ratings: settings of a reward learnt from ratings, which is then fitted again with every reply left out.
        pool: characters, of which those held out are measured on.
        data: a folder of public data sets; what it lacks is left out, and said.
        drawn: replies of one policy, many a prompt, for best-of-n.
        readers: by language, a model that may read replies for contradiction.
    """

    reward: Path
    out: Path
    ratings: RatingsConfig | None = None
    pool: Pool | None = None
    data: Path | None = None
    drawn: Sequence[Drawn] = ()
    readers: Mapping[Language, str | None] = field(default_factory=dict)
    accept_terms: bool = False
    seed: int = 0


def validate(request: Request) -> dict[str, Any]:
    """Measure, print, and write ``out/validation.json`` and the plots.

    Returns:
        What validation.json holds: a section for each part that could be measured, and ``left_out`` with reasons.

    Raises:
        UserError: a reward or data that cannot be read.
    """
    started, console = time.perf_counter(), Console(stderr=True)

    def say(text: str) -> None:
        console.print(f"validate {time.perf_counter() - started:5.1f} s  {text}", highlight=False)

    composite, seed = load_reward(request.reward), request.seed
    report: dict[str, Any] = {"reward": str(request.reward), "hash": reward_hash(request.reward), "left_out": {}}
    request.out.mkdir(parents=True, exist_ok=True)
    if request.pool is not None and request.pool.held_out_cards:
        say("held-out characters")
        exam, judge = held_out_exam(request.pool, seed=seed), remembering(composite.score_one_by_one)
        report["held_out"] = measure_terms(judge, exam, seed=seed)
        held_out = curves(judge, exam)
        plots.draw_roc(request.out / "roc.png", held_out.roc)
        plots.draw_calibration(request.out / "calibration.png", held_out.calibration)
    else:
        report["left_out"]["held_out"] = "no characters are held out"
    if request.ratings is not None:
        say("ratings, every reply left out in turn")
        fitted = cross_validate(request.ratings, say)
        report["ratings"] = fitted.report
        fitted.draw(request.out)
        if request.ratings.curve:
            say("what reads the replies")
            report["curve"] = reader_curve(fitted.tables, request.ratings)
    if request.ratings is None and request.data is not None and (request.data / CHARACTERBENCH).is_dir():
        say("ratings, nothing fitted")
        rated = read_ratings(request.data / CHARACTERBENCH)
        found = measure_reward(composite, rated, _AIM, seed=seed)
        report["transfer"] = found
        shown = {la: {name: own[name]["spearman"] for name in _COMPARED if name in own} for la, own in found.items()}
        plots.draw_agreement(request.out / "agreement.png", shown, _COMPARED)
    elif request.ratings is None:
        report["left_out"]["transfer"] = f"no {CHARACTERBENCH} in --data"
    say("dissonance")
    own = [term for term, _, _ in composite.terms if isinstance(term, DissonanceTerm)]
    report["dissonance"] = measure_dissonance(own[0] if own else DissonanceTerm(), request.data, seed=seed)
    if request.data is not None:
        say("contradiction")
        report["contradiction"] = measure_contradiction(
            composite, request.data, request.readers, accept_terms=request.accept_terms, seed=seed
        )
    else:
        report["left_out"]["contradiction"] = "needs --data"
    if request.drawn:
        say(f"best of {len(request.drawn[0].replies)}")
        report["best_of"] = measure_best_of(composite, request.drawn, seed=seed)
        plots.draw_best_of(request.out / "best_of.png", report["best_of"])
    else:
        report["left_out"]["best_of"] = "no policy to draw replies from"
    say("speed")
    report["speed"] = measure_speed(composite, _spoken(request.pool), request.reward)
    report["seconds"] = round(time.perf_counter() - started, 1)
    write_json(request.out / "validation.json", report)
    print_validation(report)
    say(f"done: {request.out / 'validation.json'}")
    return report


def validate_ratings(
    config: RatingsConfig, *, reward: Path | None = None, data: Path | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Validate a reward that was learnt from ratings; without ``data`` the folder above the ratings is looked in."""
    path = reward or config.run / "reward.yaml"
    if not path.exists():
        raise UserError("no such file; `rlrp reward train` makes one", file=path)
    if data is None and config.data is not None and Path(config.data).name == CHARACTERBENCH:
        data = Path(config.data).parent
    if data is not None and not data.is_dir():
        raise UserError("no such folder", file=data, place="--data")
    if config.data is None and data is not None:
        config = config.model_copy(update={"data": str(data / CHARACTERBENCH)})
    out = out or config.run / "validation"
    request = Request(
        path,
        out,
        ratings=config,
        data=data,
        readers=config.readers,
        accept_terms=config.accept_terms,
        seed=config.seed,
    )
    return validate(request)


def _spoken(pool: Pool | None) -> list[Sample]:
    """Replies of the dialogues to time the terms on, a few to a card."""
    pool = pool or load_pool(
        cards=[f"builtin:cards/{la}" for la in _LANGUAGES], dialogues=[f"builtin:dialogues/{la}" for la in _LANGUAGES]
    )
    found = replies_of(pool.dialogues)
    return (found * (1 + _SPEED_REPLIES // max(len(found), 1)))[:_SPEED_REPLIES]

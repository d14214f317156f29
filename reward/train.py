"""Training of the whole reward: the in-character classifier and the judge, measured, with a ``reward.yaml`` to use.

Needs no cluster and no policy. The rule terms (dissonance, blacklist, guards) are not fitted here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from reward.config import VERSION, read_reward_config
from reward.fit_judge import fit_judge, split_characters
from reward.heads.report import (
    fit_classifier,
    in_character_figures,
    judge_figures,
    training_examples,
    unseen_generators,
)
from reward.model_card import model_card
from reward.negatives import BaseReply, Character, Example, build_examples, characters_of
from reward.settings import ENCODERS, RewardSettings
from reward.term_configs import BUILT_IN, DEFAULT_GATES, DEFAULT_WEIGHTS
from reward.validate import print_figures, validate_reward
from rlrp.dialogue import Pool
from rlrp.errors import UserError
from rlrp.files import write_json, write_text

_MIN_CHARACTERS = 8
"""To train on: enough to leave some out of the reward for the judge, and to leave some out of each for calibration."""


def train_reward(
    pool: Pool,
    base_replies: Sequence[BaseReply],
    out_dir: str | Path,
    settings: RewardSettings | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train and measure; write in_character/, judge/, reward.yaml, validation.json and README.md into ``out_dir``.

    Args:
        pool: characters; those held out are measured on. Without any, each model is measured on the characters that
            trained the other.
        base_replies: the base model's own answers in the characters' places.

    Returns:
        What validation.json holds: ``in_character`` and ``judge`` (figures, and the length baseline beside them),
        ``reward`` (every term, where characters are held out), ``data``, ``seconds``.

    Raises:
        UserError: too few characters, an unknown term in ``settings.weights``, an encoder that cannot be loaded.
    """
    settings, started, out = settings or RewardSettings(), time.perf_counter(), Path(out_dir)
    _require_known_terms(settings)
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(f"reward {time.perf_counter() - started:5.1f} s  {text}", highlight=False)

    characters = characters_of(pool, held_out=False)
    _require_characters(characters)
    own, judges = _parts(characters, seed, settings.reward_share)
    held_out = [c for c in characters_of(pool, held_out=True) if c.dialogues or c.contrasts]
    examples = training_examples(own, base_replies, settings, seed)
    judge_examples = build_examples(judges, base_replies, seed=seed, kind_weights=settings.all_kind_weights)
    say(f"in_character: {len(examples)} examples of {len(own)} characters")
    in_character, fits = fit_classifier(examples, settings, seed)
    say(f"judge: {len(judge_examples)} examples of {len(judges)} other characters")
    judge = fit_judge(judge_examples)
    say(f"measuring on {len(held_out or judges)} characters not trained on")
    report: dict[str, Any] = {
        "in_character": {
            **in_character_figures(in_character, held_out or judges, base_replies, seed),
            "unseen_generators": unseen_generators(own, held_out or judges, base_replies, settings, seed),
        },
        "judge": judge_figures(judge.score, held_out or own, base_replies, seed),
        "data": {
            "in_character": _describe(examples, own),
            "judge": _describe(judge_examples, judges),
            "measured_on": sorted(c.slug for c in held_out),
            "head": settings.head,
            "length_matched": settings.matches_lengths,
            "fits": fits,
        },
    }
    for name, model in (("in_character", in_character), ("judge", judge)):
        model.config = {"training": report["data"][name], "seed": seed, "measured": report[name]}
        model.save(out / name)
    _write_reward(out, settings, {"in_character": report["in_character"]["mean_in_role"]})
    if held_out:
        say("measuring every term")
        report["reward"] = validate_reward(out / "reward.yaml", pool, base_replies, seed=seed)
        _write_reward(out, settings, {n: own["mean_in_role"] for n, own in report["reward"]["terms"].items()})
    else:
        print_figures({n: report[n] for n in ("in_character", "judge")}, report["in_character"]["length_auc"])
    report["seconds"] = round(time.perf_counter() - started, 1)
    write_json(out / "validation.json", report)
    write_text(out / "README.md", model_card(report))
    say(f"done: {out / 'reward.yaml'}")
    return report


def _require_known_terms(settings: RewardSettings) -> None:
    for name in settings.weights:
        if name not in BUILT_IN:
            raise UserError(f"unknown term {name!r}; there are {', '.join(BUILT_IN)}", place="reward.weights")
    if settings.weights.get("judge"):
        raise UserError("the judge is never optimised: its weight must be 0", place="reward.weights.judge")


def _require_characters(characters: Sequence[Character]) -> None:
    useful = [character for character in characters if character.dialogues or character.contrasts]
    if len(useful) < _MIN_CHARACTERS:
        raise UserError(
            f"{len(useful)} training characters with dialogues or contrasts; a reward needs at least {_MIN_CHARACTERS}",
            place="data",
        )


def _parts(characters: Sequence[Character], seed: int, reward_share: float) -> tuple[list[Character], list[Character]]:
    """The reward's characters and the judge's, every language divided alike."""
    own: list[Character] = []
    judges: list[Character] = []
    for language in ENCODERS:
        group = [character for character in characters if character.card.language == language]
        if not group:
            continue
        chosen, _ = split_characters([character.slug for character in group], seed, reward_share=reward_share)
        own += [character for character in group if character.slug in chosen]
        judges += [character for character in group if character.slug not in chosen]
    return own, judges


def _describe(examples: Sequence[Example], characters: Sequence[Character]) -> dict[str, Any]:
    """Which characters and how many examples of each kind; and a checksum of all that was learnt from."""
    digest = hashlib.sha256()
    counts: dict[str, int] = {}
    for example in examples:
        counts[example.kind] = counts.get(example.kind, 0) + 1
        said = [message.as_dict() for message in example.sample.messages]
        line = [example.slug, example.kind, said, example.sample.reply, round(example.weight, 6)]
        digest.update(json.dumps(line, ensure_ascii=False).encode())
    slugs = sorted(character.slug for character in characters)
    return {"characters": slugs, "examples": dict(sorted(counts.items())), "sha256": digest.hexdigest()}


def _write_reward(out: Path, settings: RewardSettings, neutral: dict[str, float | None]) -> None:
    """reward.yaml; ``neutral`` is what each term gives to replies in role, for groups that abstain as a whole."""
    terms: dict[str, dict[str, Any]] = {}
    for name, default in DEFAULT_WEIGHTS.items():
        entry: dict[str, Any] = {"weight": float(settings.weights.get(name, default))}
        if neutral.get(name) is not None:
            entry["neutral"] = neutral[name]
        if name in ("in_character", "judge"):
            entry["model"] = name
        if name in DEFAULT_GATES:
            entry["gate"] = DEFAULT_GATES[name]
        if name == "length" and settings.length is not None:
            entry |= {"en": list(settings.length), "zh": list(settings.length)}
        terms[name] = entry
    text = yaml.safe_dump({"version": VERSION, "terms": terms}, sort_keys=False, default_flow_style=None, width=110)
    write_text(out / "reward.yaml", f"{_HEADER}{text}")
    read_reward_config(out / "reward.yaml")


_HEADER = """\
# A composite reward, written by `rlrp reward train`. Change weights as you like; a weight of 0 logs a term without
# optimising it. `neutral` stands in where a whole group abstains. The judge is never optimised: its weight stays 0.
"""

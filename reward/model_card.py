"""The README of a trained reward: what it is, what it was trained on, and its own measured figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reward.heads.figures import adversarial_text, faults_table

_TEXT = """\
# Reward models

Two classifiers of replies in role-play, and the composite reward that uses the first (`reward.yaml`).

- `in_character/` is optimised. It gives the probability that a reply is the card's character in role, {head}
- `judge/` is never optimised. It answers the same from other characters' data and other features (words and character
  n-grams). Watch it beside the reward.

Both are safetensors and JSON; nothing in them is code.

## Training data

{data}

Positives are replies from the characters' dialogues and the right halves of contrasts. Negatives, by kind: {kinds}.
`other_character` and `shuffled` are real replies in the wrong place; `base_assistant` are the base model's own answers.
{models}{matched}

## Measured on characters that were not trained on

{figures}

The interval is a bootstrap over characters. AUC over all kinds of negatives, weighted as in training.
ECE: expected calibration error over ten bins. Pairs: how often the right reply of a contrast has the higher value.

AUC against each kind of negative:

{kinds_table}

Faults, each with a probability of its own beside the value (`fault.NAME` among the term's parts, named in the reason
from 70 %), calibrated at even odds of the fault and being in role:

{faults}

A biography in the first person counts as breaking the fourth wall: it speaks of the character from outside.

Hand-written faults dressed up as the character (its gestures, catchphrases and old words around an assistant's answer),
each beside a reply in role to the same line, on characters not trained on: the reply in role has the higher value in
{adversarial}{generators}

## Limits

- Small data of a few authors: the figures say how well the classifiers know *these* faults in replies by *these*
  authors. Against a model that is trained to please them they hold less; that is what the judge is for.
- The judge sees no style figures: it cannot tell a reply that is broken off or repeats itself.
- Only English and Chinese; for other scripts the classifier abstains.
"""


_HEADS = {
    "linear": """from two
  questions: is it somebody speaking in a scene (voice: embedding and style of the reply), and is it this character
  answering this (match: what the reply shares with card and conversation, and the card's manner of speech). Linear.""",
    "cross-encoder": """by an
  encoder that reads the card and the last messages against the reply (cross-encoder).""",
    "lm": """by a
  causal language model that reads the card, the last messages and the reply (a LoRA adapter and a linear layer).""",
}


def model_card(report: Mapping[str, Any]) -> str:
    """Markdown with the figures of ``report`` (see :func:`reward.train.train_reward`)."""
    data, own = report["data"], report["in_character"]
    lines = [
        f"- {name}: {len(data[name]['characters'])} characters, {sum(data[name]['examples'].values())} examples, "
        f"SHA-256 {data[name]['sha256'][:16]}"
        for name in ("in_character", "judge")
    ]
    kinds = sorted(set(data["in_character"]["examples"]) - {"in_role"})
    return _TEXT.format(
        head=_HEADS[data["head"]],
        data="\n".join(lines),
        kinds=", ".join(f"`{kind}`" for kind in kinds),
        models=_models(data["fits"]),
        matched="\nNegatives are weighted to the lengths of replies in role." if data["length_matched"] else "",
        figures=_figures_table(report),
        kinds_table=_kinds_table(report),
        faults=faults_table(own["faults"]),
        adversarial=adversarial_text(own["adversarial"]),
        generators=_generators(own["unseen_generators"]),
    )


def _models(fits: Mapping[str, Mapping[str, Any]]) -> str:
    """Which models the classifier is made of."""
    if any("base" in fit for fit in fits.values()):
        bases = ", ".join(sorted({f"`{fit['base']}`" for fit in fits.values()}))
        left = sum(fit["calibrated_on"] for fit in fits.values())
        return f"The in-character classifier starts from {bases}; {left} of its characters only calibrate it."
    used = ", ".join(f"{language} `{fit['encoder']}`" for language, fit in fits.items())
    return f"Encoders of the in-character classifier: {used}."


def _generators(found: Mapping[str, Mapping[str, Any]]) -> str:
    if not found:
        return ""
    rows = [
        f"| {name} | {_cell(own['base_assistant'])} | {_cell(own['half_assistant'])} |" for name, own in found.items()
    ]
    head = "\n\nAUC against the replies of a model whose replies were left out of training:\n\n"
    return head + "\n".join(["| generator | base_assistant | half_assistant |", "|---|---|---|", *rows])


def _figures_table(report: Mapping[str, Any]) -> str:
    rows = ["| model | AUC | 95 % | length alone | Brier | ECE | pairs |", "|---|---|---|---|---|---|---|"]
    for name in ("in_character", "judge"):
        own = report[name]
        low, high = own["auc_ci95"]
        cells = [_cell(own["auc"]), f"{_cell(low)} to {_cell(high)}", _cell(own["length_auc"]), _cell(own["brier"])]
        cells += [_cell(own["ece"]), f"{_cell(own['pairs']['accuracy'])} of {own['pairs']['n']}"]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _kinds_table(report: Mapping[str, Any]) -> str:
    models = ("in_character", "judge")
    kinds = sorted({kind for name in models for kind in report[name]["auc_by_kind"]})
    rows = ["| kind | in_character | judge |", "|---|---|---|"]
    rows += [
        f"| {kind} | " + " | ".join(_cell(report[name]["auc_by_kind"].get(kind)) for name in models) + " |"
        for kind in kinds
    ]
    return "\n".join(rows)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""The cross-encoder head: an encoder reads the card and the messages against the reply, all its weights trained.

The base is any model that sentence-transformers' CrossEncoder loads; the directory holds the whole trained model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reward.heads.faults import FAULTS
from reward.heads.interface import Contents
from reward.heads.loop import Verdicts, calibrate, logits_of, optimise, pick_device
from reward.heads.reading import Cutter
from reward.heads.settings import HeadOptions
from reward.negatives import Example
from reward.text import Language
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError, first_line
from rlrp.lm.load import resolve_model
from rlrp.protocols import TermScore

Floats = NDArray[np.float32]
FOLDER = "encoder"
_SPECIAL = 4
"""Tokens that a pair's marks take."""


class CrossEncoderClassifier:
    """One encoder for all the languages it was trained on; a logit for being in role and one for each fault."""

    kind = "cross-encoder"

    def __init__(self, encoder: Any, verdicts: Verdicts, config: dict[str, Any]):
        """Use a trained ``sentence_transformers.CrossEncoder``; ``config`` is what the directory says of it."""
        self.encoder, self.verdicts, self.config = encoder, verdicts, config
        self._forward = Pairs(encoder, int(config["max_length"]), int(config["messages"]), int(config["token_budget"]))

    @property
    def languages(self) -> tuple[Language, ...]:
        return tuple(self.config["languages"])

    def score(self, language: Language, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples; the language makes no difference to the encoder."""
        self.encoder.eval()
        return self.verdicts.scores(logits_of(self._forward, samples, 1 + len(self.verdicts.faults)))

    def contents(self) -> Contents:
        """What the directory holds of it."""
        return Contents({"platt": self.verdicts.platt}, self.config, write=self._write)

    def _write(self, folder: Path) -> None:
        # transformers' own files, not sentence-transformers', whose modules.json names classes to import.
        self.encoder.model.save_pretrained(folder / FOLDER)
        self.encoder.tokenizer.save_pretrained(folder / FOLDER)
        for template in (folder / FOLDER).glob("*.jinja"):
            template.unlink()  # a chat's; pairs need none

    @classmethod
    def restore(cls, folder: Path, contents: Contents) -> CrossEncoderClassifier:
        """The reverse of :meth:`contents`. KeyError, TypeError or ValueError if it does not fit."""
        config = dict(contents.config)
        faults = checked_faults(config)
        encoder = load_encoder(str(folder / FOLDER), 1 + len(faults), int(config["max_length"]), trained=True)
        return cls(encoder, Verdicts(cls.kind, faults, checked_platt(contents, faults)), config)


class Pairs:
    """Runs an encoder over samples, in parts of a token budget, replies of like length together."""

    def __init__(self, encoder: Any, max_length: int, messages: int, token_budget: int):
        """``max_length`` counts the marks between the texts too."""
        self.encoder, self.max_length, self.token_budget = encoder, max_length, token_budget
        self.cutter = Cutter(encoder.tokenizer, max_length - _SPECIAL, messages)

    def __call__(self, samples: Sequence[Sample]) -> Iterator[tuple[list[int], Tensor]]:
        pairs = [(self.cutter.prompt(sample), self.cutter.reply(sample)) for sample in samples]
        lengths = [len(own) for own in self._tokens(pairs)["input_ids"]] if pairs else []
        part: list[int] = []
        for at in sorted(range(len(pairs)), key=lengths.__getitem__):
            if part and lengths[at] * (len(part) + 1) > self.token_budget:
                yield part, self._logits([pairs[at] for at in part])
                part = []
            part.append(at)
        if part:
            yield part, self._logits([pairs[at] for at in part])

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        batch = self._tokens(pairs, padding=True, return_tensors="pt")
        logits: Tensor = self.encoder.model(**batch.to(self.encoder.model.device)).logits
        return logits

    def _tokens(self, pairs: Sequence[tuple[str, str]], **settings: Any) -> Any:
        # Cut already; a text's tokens may be one or two more beside another's.
        prompts, replies = [prompt for prompt, _ in pairs], [reply for _, reply in pairs]
        return self.encoder.tokenizer(prompts, replies, truncation=True, max_length=self.max_length, **settings)


def fit_cross_encoder(
    learn: Sequence[Example],
    left_out: Sequence[Example],
    faults: Sequence[str],
    base: str,
    options: HeadOptions,
    *,
    seed: int = 0,
) -> tuple[CrossEncoderClassifier, list[float]]:
    """Fine-tune ``base`` on ``learn`` and calibrate on ``left_out``; also the mean loss of every epoch.

    Raises:
        UserError: the base model cannot be loaded.
    """
    import torch

    torch.manual_seed(seed)  # of the new head's weights
    encoder = load_encoder(resolve_model(base), 1 + len(faults), options.max_length, device=options.device, name=base)
    languages = sorted({example.sample.card.language for example in learn})
    # RoBERTa and its relatives count two positions that they do not use.
    length = min(options.max_length, int(getattr(encoder.model.config, "max_position_embeddings", 1 << 30)) - 2)
    config = {
        "languages": languages,
        "faults": [*faults],
        "base": base,
        "max_length": length,
        "messages": options.messages,
        "token_budget": options.token_budget,
    }
    forward = Pairs(encoder, length, options.messages, options.token_budget)
    encoder.train()
    losses = optimise(
        forward,
        [parameter for parameter in encoder.parameters() if parameter.requires_grad],
        learn,
        faults,
        options,
        learning_rate=options.rate(CrossEncoderClassifier.kind),
        seed=seed,
        title="in_character: cross-encoder",
    )
    encoder.eval()
    found = logits_of(forward, [example.sample for example in left_out], 1 + len(faults))
    verdicts = Verdicts(CrossEncoderClassifier.kind, tuple(faults), calibrate(found, left_out, faults))
    return CrossEncoderClassifier(encoder, verdicts, config), losses


def load_encoder(
    path: str, labels: int, max_length: int, *, device: str = "auto", name: str = "", trained: bool = False
) -> Any:
    """A CrossEncoder with a logit for every label, without code or pickles from its files.

    Raises:
        UserError: no such model, or one that cannot be loaded; of a trained one, ValueError if its head is another.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # that the head of an untrained base is new needs no warning
    own = {} if trained else {"num_labels": labels}
    # A base that was trained to rank has a head of its own, which gives way to ours.
    settings = {} if trained else {"ignore_mismatched_sizes": True}
    try:
        encoder = CrossEncoder(
            path,
            max_length=max_length,
            device=str(pick_device(device)),
            activation_fn=torch.nn.Identity(),
            trust_remote_code=False,
            local_files_only=trained,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32, **settings},
            **own,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot load the cross-encoder {name or path}: {first_line(error, 200)}", place="reward.base"
        ) from error
    if encoder.num_labels != labels:
        raise ValueError(f"{FOLDER} gives {encoder.num_labels} logits, expected {labels}")
    return encoder


def checked_faults(config: dict[str, Any]) -> tuple[str, ...]:
    """The faults that a directory names. ValueError if one is unknown."""
    faults = tuple(config["faults"])
    if unknown := [name for name in faults if name not in FAULTS]:
        raise ValueError(f"faults names {unknown[0]!r}; there are {', '.join(FAULTS)}")
    return faults


def checked_platt(contents: Contents, faults: Sequence[str]) -> Floats:
    """The calibration that a directory holds. KeyError if there is none, ValueError if it is of other columns."""
    platt = contents.tensors["platt"]
    if platt.shape != (1 + len(faults), 2) or not np.isfinite(platt).all():
        raise ValueError(f"platt has shape {platt.shape}, expected {(1 + len(faults), 2)}, and finite numbers")
    return platt

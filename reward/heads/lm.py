"""The lm head: a causal language model reads the card, the messages and the reply; a linear layer judges its states.

The model learns by a LoRA adapter. Replies to one prompt are read with the prompt computed once, in training too. The
directory holds the adapter and the layer; the base model is kept by name and checksum.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from reward.heads.cross_encoder import checked_faults, checked_platt
from reward.heads.interface import Contents
from reward.heads.loop import Verdicts, calibrate, logits_of, optimise, pick_device
from reward.heads.reading import Cutter
from reward.heads.settings import HeadOptions
from reward.negatives import Example
from reward.text import Language
from rlrp.dialogue.types import Sample
from rlrp.errors import UserError, first_line
from rlrp.files import sha256_file
from rlrp.lm.adapters import AdapterState, LoraSettings, adapter_state, add_lora
from rlrp.lm.frozen import speed_up_frozen_linears
from rlrp.lm.load import resolve_model
from rlrp.lm.scoring import TokenGroup, completion_hidden, micro_batches
from rlrp.lm.self_check import use_shared_prefix
from rlrp.lm.shared_prefix import keep_lower_layers
from rlrp.protocols import TermScore

Floats = NDArray[np.float32]
ADAPTER, WEIGHTS = "adapter", "adapter_model.safetensors"


class Reading:
    """A language model with its layer (K, 2 C): samples to logits, prompts shared, in packs of a token budget."""

    def __init__(self, model: Any, tokenizer: Any, layer: torch.nn.Linear, config: dict[str, Any]):
        """``config`` has max_length, messages and token_budget."""
        self.model, self.tokenizer, self.layer = model, tokenizer, layer
        self.token_budget = int(config["token_budget"])
        self.cutter = Cutter(tokenizer, int(config["max_length"]), int(config["messages"]))

    def __call__(self, samples: Sequence[Sample]) -> Iterator[tuple[list[int], Tensor]]:
        places: dict[str, list[int]] = {}
        for at, sample in enumerate(samples):
            places.setdefault(self.cutter.prompt(sample), []).append(at)
        prompts = sorted(places, key=len)
        # The states are those that predict a token: one more stands after the reply, and is not read itself.
        end = self.tokenizer.eos_token_id or 0
        groups = [
            TokenGroup(self._prompt(p), tuple((*self._reply(samples[at]), end) for at in places[p])) for p in prompts
        ]
        for part, where in micro_batches(groups, self.token_budget):
            hidden = completion_hidden(self.model, part)
            sizes = [len(completion) for group in part for completion in group.completions]
            read = torch.stack([_pooled(own) for own in hidden.float().split(sizes)])
            yield [places[prompts[g]][c] for g, c in where], self.layer(read)

    def _prompt(self, text: str) -> tuple[int, ...]:
        """With the mark of a beginning, if the model has one."""
        return tuple(self.tokenizer(text)["input_ids"]) or (0,)

    def _reply(self, sample: Sample) -> tuple[int, ...]:
        return tuple(self.tokenizer(self.cutter.reply(sample), add_special_tokens=False)["input_ids"])


def _pooled(states: Tensor) -> Tensor:
    """(2 C,): the reply's last state, which has seen all of it, and the mean over its tokens; the first of the states
    is the prompt's."""
    own = states[1:] if len(states) > 1 else states
    return torch.cat([own[-1], own.mean(dim=0)])


class LmClassifier:
    """One language model for all the languages it was trained on; a logit for being in role and one for each fault."""

    kind = "lm"

    def __init__(self, reading: Reading, adapter: AdapterState, lora: Any, verdicts: Verdicts, config: dict[str, Any]):
        """Use a model into which ``adapter`` (of settings ``lora``) is merged; ``config`` is for the directory."""
        self._reading, self._adapter, self._lora = reading, adapter, lora
        self.verdicts, self.config = verdicts, config

    @property
    def languages(self) -> tuple[Language, ...]:
        return tuple(self.config["languages"])

    def score(self, language: Language, samples: Sequence[Sample]) -> list[TermScore]:
        """Score samples; the language makes no difference to the model."""
        return self.verdicts.scores(logits_of(self._reading, samples, 1 + len(self.verdicts.faults)))

    def contents(self) -> Contents:
        """What the directory holds of it."""
        layer = self._reading.layer
        own = {"weight": layer.weight, "bias": layer.bias}
        tensors = {name: tensor.detach().float().cpu().numpy() for name, tensor in own.items()}
        return Contents({**tensors, "platt": self.verdicts.platt}, self.config, write=self._write)

    def _write(self, folder: Path) -> None:
        (folder / ADAPTER).mkdir()
        save_file(self._adapter, folder / ADAPTER / WEIGHTS)
        lora = copy.copy(self._lora)
        lora.base_model_name_or_path = self.config["base"]
        lora.save_pretrained(folder / ADAPTER)

    @classmethod
    def restore(cls, folder: Path, contents: Contents) -> LmClassifier:
        """The reverse of :meth:`contents`.

        Raises:
            UserError: the base model cannot be loaded or is not the one trained on; KeyError, TypeError, ValueError:
                the directory does not fit.
        """
        from peft import PeftModel

        config, tensors = dict(contents.config), contents.tensors
        faults = checked_faults(config)
        platt = checked_platt(contents, faults)
        model, tokenizer = load_base(str(config["base"]), float(config["depth"]))
        if (found := checksum_of(str(config["base"]), model)) != config["base_checksum"]:
            raise UserError(
                f"{config['base']} is {found[:23]}, the head was trained on {str(config['base_checksum'])[:23]}; train "
                "again",
                file=folder,
                place="base",
            )
        layer = torch.nn.Linear(2 * model.get_input_embeddings().embedding_dim, 1 + len(faults))
        state = {name: torch.from_numpy(tensors[name]) for name in ("weight", "bias")}
        if not (folder / ADAPTER / WEIGHTS).is_file():  # PEFT would go on to a pickle, or to the hub
            raise ValueError(f"no {ADAPTER}/{WEIGHTS}")
        try:
            layer.load_state_dict(state)
            wrapped = PeftModel.from_pretrained(model, folder / ADAPTER, local_files_only=True)
        except (RuntimeError, OSError) as error:
            raise ValueError(str(error).splitlines()[0]) from error
        adapter, lora = load_file(folder / ADAPTER / WEIGHTS), wrapped.peft_config["default"]
        return cls(_merged(wrapped, tokenizer, layer, config), adapter, lora, Verdicts(cls.kind, faults, platt), config)


def fit_lm(
    learn: Sequence[Example],
    left_out: Sequence[Example],
    faults: Sequence[str],
    base: str,
    options: HeadOptions,
    *,
    seed: int = 0,
    accept_terms: bool = False,
) -> tuple[LmClassifier, list[float]]:
    """Train an adapter and a layer on ``learn`` and calibrate on ``left_out``; also the mean loss of every epoch.

    Raises:
        UserError: the base model cannot be loaded.
    """
    model, tokenizer = load_base(base, options.depth, options.device, accept_terms=accept_terms)
    config = {
        "languages": sorted({example.sample.card.language for example in learn}),
        "faults": [*faults],
        "base": base,
        "base_checksum": checksum_of(base, model),
        **options.model_dump(include={"depth", "max_length", "messages", "token_budget"}),
    }
    use_shared_prefix(model)
    wrapped = add_lora(model, LoraSettings(r=options.lora_r, alpha=2 * options.lora_r), seed=seed)
    speed_up_frozen_linears(wrapped)
    layer = torch.nn.Linear(2 * model.get_input_embeddings().embedding_dim, 1 + len(faults)).to(model.device)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    reading = Reading(wrapped, tokenizer, layer, config)
    wrapped.train()
    losses = optimise(
        reading,
        [*(parameter for parameter in wrapped.parameters() if parameter.requires_grad), *layer.parameters()],
        learn,
        faults,
        options,
        learning_rate=options.rate(LmClassifier.kind),
        seed=seed,
        title="in_character: lm",
    )
    adapter, lora = adapter_state(wrapped), wrapped.peft_config["default"]
    reading = _merged(wrapped, tokenizer, layer, config)
    found = logits_of(reading, [example.sample for example in left_out], 1 + len(faults))
    verdicts = Verdicts(LmClassifier.kind, tuple(faults), calibrate(found, left_out, faults))
    return LmClassifier(reading, adapter, lora, verdicts, config), losses


def load_base(spec: str, depth: float, device: str = "auto", *, accept_terms: bool = False) -> tuple[Any, Any]:
    """The base model with the lower ``depth`` of its layers, and its tokenizer.

    Raises:
        UserError: no such model, terms that were not accepted, or one that cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    path, place = resolve_model(spec, accept_terms=accept_terms), pick_device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True).to(place)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load {spec}: {first_line(error, 200)}", place="reward.base") from error
    keep_lower_layers(model, depth)
    return model.eval(), tokenizer


def checksum_of(spec: str, model: Any) -> str:
    """Which weights a base model has: of its files in a directory, else the commit of the hub's repository."""
    files = sorted(Path(resolve_model(spec, accept_terms=True)).glob("*.safetensors"))
    if not files:
        return f"commit {getattr(model.config, '_commit_hash', None)}"
    return f"sha256 {hashlib.sha256(' '.join(map(sha256_file, files)).encode()).hexdigest()}"


def _merged(wrapped: Any, tokenizer: Any, layer: torch.nn.Linear, config: dict[str, Any]) -> Reading:
    model = wrapped.merge_and_unload().eval()
    use_shared_prefix(model)
    return Reading(model, tokenizer, layer.to(model.device).eval(), config)

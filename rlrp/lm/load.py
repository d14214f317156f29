"""Language models by name: a hub id, a directory (perhaps a LoRA adapter's), or a packaged model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rlrp.errors import UserError, first_line
from rlrp.files import read_json
from rlrp.lm.chat import ChatFormat, set_chat_template
from rlrp.lm.packaged import PREFIX, ensure_packaged, is_packaged, packaged_model

_OWN_TEMPLATE = {"gemma3-270m": "gemma-roleplay"}
"""Packaged base models have no chat template; these are the ones we bring for them."""


@dataclass
class LanguageModel:
    """A causal language model, its tokenizer, and its chat format."""

    spec: str
    model: Any
    tokenizer: Any
    chat: ChatFormat

    @property
    def context(self) -> int:
        """The longest sequence the model was made for, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 30))


def resolve_model(spec: str, *, accept_terms: bool = False) -> str:
    """What ``from_pretrained`` takes: a local directory, or a hub id left as it is."""
    if is_packaged(spec):
        return str(ensure_packaged(spec, accept_terms=accept_terms))
    if spec and Path(spec).is_dir():
        return spec
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec) or spec.startswith((".", "/", "~")):
        raise UserError(f"no such directory: {spec}; give a directory, a hub id or {PREFIX}NAME", place="model")
    return spec


def load_tokenizer(spec: str, *, chat_template: str | None = None, accept_terms: bool = False) -> Any:
    """The tokenizer with a chat template, its own or the named one."""
    from transformers import AutoTokenizer

    path = resolve_model(spec, accept_terms=accept_terms)
    if is_adapter(path) and not (Path(path) / "tokenizer_config.json").exists():
        return load_tokenizer(_base_of(path), chat_template=chat_template, accept_terms=accept_terms)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the tokenizer of {spec}: {first_line(error, 300)}", place="model") from error
    if chat_template is None and is_packaged(spec):
        chat_template = _OWN_TEMPLATE.get(packaged_model(spec).name)
    set_chat_template(tokenizer, chat_template, model=spec)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    spec: str,
    *,
    chat_template: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    accept_terms: bool = False,
) -> LanguageModel:
    """Load weights and tokenizer; an adapter directory is merged into its base.

    Raises:
        UserError: no such model, no network, no chat template.
    """
    path = resolve_model(spec, accept_terms=accept_terms)
    tokenizer = load_tokenizer(spec, chat_template=chat_template, accept_terms=accept_terms)
    model = _load_adapter(path, dtype) if is_adapter(path) else load_weights(path, spec, dtype)
    return LanguageModel(spec, model.to(device).eval(), tokenizer, ChatFormat(tokenizer))


def load_weights(path: str, spec: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"cannot load {spec}: {first_line(error, 300)}", place="model") from error


def is_adapter(path: str) -> bool:
    """Whether a directory holds a LoRA adapter, not a model."""
    return (Path(path) / "adapter_config.json").exists()


def _base_of(path: str) -> str:
    file = Path(path) / "adapter_config.json"
    base = read_json(file).get("base_model_name_or_path")
    if not base:
        raise UserError("names no base model", file=file, place="base_model_name_or_path")
    return str(base)


def _load_adapter(path: str, dtype: torch.dtype) -> Any:
    from peft import PeftModel

    base = _base_of(path)
    if not (Path(path) / "adapter_model.safetensors").exists():
        # PEFT would go on to adapter_model.bin, a pickle, or to the hub.
        raise UserError(
            "no such file; an adapter's weights must be safetensors", file=f"{path}/adapter_model.safetensors"
        )
    model = load_weights(resolve_model(base), base, dtype)
    try:
        return PeftModel.from_pretrained(model, path).merge_and_unload()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load the adapter {path}: {first_line(error, 300)}", place="model") from error

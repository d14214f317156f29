"""Tiny random models of the architectures we claim, and a byte tokenizer: milliseconds on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlrp.lm.chat import TEMPLATES, ChatFormat
from rlrp.lm.load import LanguageModel
from rlrp.lm.self_check import use_shared_prefix

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA = (TEMPLATES / "gemma-roleplay.jinja").read_text(encoding="utf-8")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
VOCABULARY = len(SPECIAL) + 256
WINDOW = 6

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # at the usual 0.02 a tiny model is so nearly uniform that errors would not show
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_OWN: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": WINDOW},
    "Gemma3": {
        "head_dim": 8,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": 8.0,
    },
}
ARCHITECTURES = tuple(_OWN)


def tiny_model(architecture: str = "Llama", *, seed: int = 0, shared: bool = True, **settings: Any) -> Any:
    """A random model; with ``shared`` on it uses our attention, else transformers' eager one (the oracle)."""
    config_class = getattr(transformers, "Gemma3TextConfig" if architecture == "Gemma3" else f"{architecture}Config")
    config = config_class(**{**_COMMON, **_OWN.get(architecture, {}), **settings})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).eval()
    if shared:
        use_shared_prefix(model)
    else:
        model.set_attn_implementation("eager")
    return model


def byte_tokenizer(template: str | None = CHATML, *, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """A token per byte: any text comes back exactly."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, bos_token="<bos>", pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    return fast


def tiny_lm(architecture: str = "Llama", **settings: Any) -> LanguageModel:
    tokenizer = byte_tokenizer()
    return LanguageModel("tiny", tiny_model(architecture, **settings), tokenizer, ChatFormat(tokenizer))


def save_tiny(folder: Path, architecture: str = "Llama", **settings: Any) -> str:
    tiny_model(architecture, shared=False, **settings).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def plain_logits(model: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> torch.Tensor:
    """[completion, V]: the ordinary forward of one sequence, where each completion token is predicted."""
    logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
    return logits[len(prompt) - 1 : len(prompt) + len(completion) - 1]


def plain_logprobs(model: Any, groups: Any, temperature: float = 1.0) -> torch.Tensor:
    """The oracle of ``token_logprobs``: every completion alone, the whole softmax."""
    parts = [torch.zeros(0)]
    for group in groups:
        for completion in group.completions:
            if completion:
                logp = (plain_logits(model, group.prompt, completion) / temperature).log_softmax(-1)
                parts.append(logp.gather(1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(parts)

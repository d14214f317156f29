"""The sizes of language models, read from their configs: for estimates before any weights are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrp.files import read_json
from rlrp.lm.packaged import cache_folder, is_packaged, packaged_model


@dataclass(frozen=True)
class Shape:
    """A decoder's size. ``head`` is the width of an attention head; ``tied``: embedding and output are one matrix."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head: int
    tied: bool

    @property
    def linear(self) -> int:
        """Parameters of the linear layers."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        return self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def kv_width(self) -> int:
        """Numbers that the cache keeps for one token."""
        return 2 * self.layers * self.kv_heads * self.head

    def adapter(self, r: int) -> int:
        """Parameters of a rank-r adapter on all linear layers."""
        h, m, q, kv = self.hidden, self.intermediate, self.heads * self.head, self.kv_heads * self.head
        return self.layers * r * (2 * (h + q) + 2 * (h + kv) + 3 * (h + m))


_QWEN3 = {
    "0.6B": Shape(28, 1024, 3072, 151936, 16, 8, 128, True),
    "1.7B": Shape(28, 2048, 6144, 151936, 16, 8, 128, True),
    "4B": Shape(36, 2560, 9728, 151936, 32, 8, 128, True),
    "8B": Shape(36, 4096, 12288, 151936, 32, 8, 128, False),
    "14B": Shape(40, 5120, 17408, 151936, 40, 8, 128, False),
    "32B": Shape(64, 5120, 25600, 151936, 64, 8, 128, False),
}
_QWEN25 = {
    "0.5B": Shape(24, 896, 4864, 151936, 14, 2, 64, True),
    "1.5B": Shape(28, 1536, 8960, 151936, 12, 2, 128, True),
    "3B": Shape(36, 2048, 11008, 151936, 16, 2, 128, True),
    "7B": Shape(28, 3584, 18944, 152064, 28, 4, 128, False),
    "14B": Shape(48, 5120, 13824, 152064, 40, 8, 128, False),
    "32B": Shape(64, 5120, 27648, 152064, 40, 8, 128, False),
    "72B": Shape(80, 8192, 29568, 152064, 64, 8, 128, False),
}
_LLAMA = {
    "3.1-8B": Shape(32, 4096, 14336, 128256, 32, 8, 128, False),
    "3.1-70B": Shape(80, 8192, 28672, 128256, 64, 8, 128, False),
    "3.2-1B": Shape(16, 2048, 8192, 128256, 32, 8, 64, True),
    "3.2-3B": Shape(28, 3072, 8192, 128256, 24, 8, 128, True),
    "3.3-70B": Shape(80, 8192, 28672, 128256, 64, 8, 128, False),
}
HUB: dict[str, Shape] = {
    **{f"Qwen/Qwen3-{size}{kind}": shape for size, shape in _QWEN3.items() for kind in ("", "-Base")},
    **{f"Qwen/Qwen2.5-{size}{kind}": shape for size, shape in _QWEN25.items() for kind in ("", "-Instruct")},
    **{f"meta-llama/Llama-{size}{kind}": shape for size, shape in _LLAMA.items() for kind in ("", "-Instruct")},
    **{
        f"mistralai/Mistral-7B-{kind}v0.3": Shape(32, 4096, 14336, 32768, 32, 8, 128, False)
        for kind in ("", "Instruct-")
    },
}
"""From the ``config.json`` that each publishes, for plans made where the hub is not at hand."""


def model_shape(spec: str) -> Shape | None:
    """From ``config.json`` in the directory or in the hub's cache, or from ``HUB``; None for a model of which neither
    is there."""
    folder = cache_folder() / "models" / packaged_model(spec).name if is_packaged(spec) else Path(spec)
    file: Any = folder / "config.json"
    if not file.exists() and not is_packaged(spec) and not spec.startswith((".", "/", "~")):
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            file = try_to_load_from_cache(spec, "config.json")
        except HFValidationError:  # no hub id: a directory that is not there yet
            file = None
    if not isinstance(file, str | Path) or not Path(file).exists():
        return HUB.get(spec)
    return _of_config(read_json(file))


def _of_config(c: dict[str, Any]) -> Shape | None:
    c = c.get("text_config", c)  # of models that also see
    if not {"num_attention_heads", "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"} <= c.keys():
        return None
    heads = c["num_attention_heads"]
    return Shape(
        layers=c["num_hidden_layers"],
        hidden=c["hidden_size"],
        intermediate=c["intermediate_size"],
        vocabulary=c["vocab_size"],
        heads=heads,
        kv_heads=c.get("num_key_value_heads", heads),
        head=c.get("head_dim") or c["hidden_size"] // heads,
        tied=c.get("tie_word_embeddings", True),
    )

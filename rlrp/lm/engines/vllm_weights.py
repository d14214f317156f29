"""Weights inside a vLLM worker: an adapter or whole weights taken in place, and read back out of the layers.

vLLM keeps several of a checkpoint's matrices in one (q, k and v; gate and up), spreads them over tensor-parallel
workers, and its CPU build packs them for oneDNN and drops the parameter. So what was written is no proof of what is
computed with: every matrix of a touched layer is read back from where the layer's own product takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlrp.errors import UserError
from rlrp.lm.adapters import AdapterState, checksum, is_lora, lora_modules, merge
from rlrp.lm.checkpoint import Checkpoint, open_checkpoint


class WeightSync:
    """Mixed into vLLM's worker (``worker_extension_cls``) and called by ``collective_rpc``; ``self`` is the worker."""

    rlrp_changed: list[str]

    @torch.no_grad()
    def rlrp_load(self, sent: str, folder: str, scaling: float) -> str:
        """Take the weights in the file ``sent``; ``folder`` holds those that an adapter is merged into.

        Returns the checksum of what was sent if all that it stands for is what the layers compute with now, bit for
        bit; wherever it is not, what was read back goes into the checksum instead.
        """
        worker: Any = self
        model = worker.get_model()
        with open_checkpoint(sent) as file, open_checkpoint(folder) as base:
            state = file.tensors()
            intended = Intended(state, base, scaling, model, worker.model_config.dtype)
            # What an earlier load changed and this one does not speak of is as it was in the files again.
            intended.names = sorted({*intended.names, *getattr(self, "rlrp_changed", ())})
            self.rlrp_changed = intended.names
            worker.reload_weights(weights_iterator=iter(intended))
            pack_again(model)
            for name, tensor in intended:
                layer, part = layer_of(model, name)
                found = read_back(layer, part, name)
                if not torch.equal(found, shard_of(layer, part, tensor)):
                    state[name] = found.cpu()
            for name, layer in tied_heads(model):
                if not torch.equal(_product_weight(layer), layer.weight):
                    state[name] = _product_weight(layer).contiguous()
            return checksum(state)


class Intended:
    """Name and value of every tensor that the model shall hold after a load: all of each layer that is touched."""

    def __init__(self, state: AdapterState, base: Checkpoint, scaling: float, model: Any, dtype: torch.dtype):
        self.state, self.base, self.scaling, self.dtype = dict(state), base, scaling, dtype
        self.device = next(model.parameters()).device
        self.adapted = {f"{_bare(name)}.weight": name for name in lora_modules(state)} if is_lora(state) else {}
        for name in self.adapted:
            if name not in base.names:
                raise _no_tensor(name)
        self.names = self._whole_layers(model) if self.adapted else list(state)

    def _whole_layers(self, model: Any) -> list[str]:
        """A layer that is loaded in part would be left with whatever memory it was given in the rest."""
        modules = {other for name in self.adapted for other in stacked_with(model, _module(name))}
        return [name for name in self.base.names if _module(name) in modules]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.names:
            yield name, self._value(name)

    def _value(self, name: str) -> Tensor:
        if name in self.adapted:
            module = self.adapted[name]
            a, b = (self.state[f"{module}.lora_{part}.weight"] for part in "AB")
            return merge(self._own(self.base[name]), self._own(a), self._own(b), self.scaling)
        return self._own(self.state[name] if name in self.state else self.base[name])

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)


def stacked_with(model: Any, module: str) -> list[str]:
    """The checkpoint's modules, this one among them, that vLLM keeps in one layer, in the order of their rows."""
    from vllm.model_executor.utils import get_packed_modules_mapping

    parent, _, own = module.rpartition(".")
    for parts in get_packed_modules_mapping(model).values():
        if own in parts:
            return [f"{parent}.{part}" for part in parts]
    return [module]


def layer_of(model: Any, name: str) -> tuple[Any, int]:
    """vLLM's layer that holds a checkpoint's tensor, and which of its stacked parts it is (-1: it is the layer)."""
    from vllm.model_executor.utils import get_packed_modules_mapping

    module = _module(name)
    parent, _, own = module.rpartition(".")
    try:
        for packed, parts in get_packed_modules_mapping(model).items():
            if own in parts and len(parts) > 1:
                return model.get_submodule(f"{parent}.{packed}"), parts.index(own)
        return model.get_submodule(module), -1
    except AttributeError:
        raise _no_tensor(name) from None


def read_back(layer: Any, part: int, name: str) -> Tensor:
    """The named tensor, or this worker's share of it, as the layer computes with it now."""
    leaf = name.rpartition(".")[2]
    found: Tensor = _product_weight(layer) if leaf == "weight" else getattr(layer, leaf)
    if hasattr(layer, "shard_indices"):  # a vocabulary is padded
        found = found[: layer.shard_indices.num_org_elements]
    if part < 0:
        return found
    sizes = layer.output_partition_sizes
    return found[sum(sizes[:part]) : sum(sizes[: part + 1])]


def _product_weight(layer: Any) -> Tensor:
    """``weight`` where the product takes it; where it was packed away, the product with the identity, which is it."""
    weight: Tensor = layer.weight
    if not hasattr(layer, "cpu_linear") or _is_lookup(layer):
        return weight
    width = layer.embedding_dim if hasattr(layer, "embedding_dim") else layer.input_size_per_partition
    product: Tensor = layer.quant_method.apply(layer, torch.eye(width, dtype=weight.dtype, device=weight.device), None)
    return product.T


def _is_lookup(layer: Any) -> bool:
    """Whether the layer only picks rows: an embedding, which vLLM's vocabulary projection also is a kind of."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    return isinstance(layer, VocabParallelEmbedding) and not isinstance(layer, ParallelLMHead)


def shard_of(layer: Any, part: int, whole: Tensor) -> Tensor:
    """What of a checkpoint's tensor is this worker's: rows of it, or columns, or all."""
    from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear

    if hasattr(layer, "shard_indices"):
        rows = layer.shard_indices
        return whole[rows.org_vocab_start_index : rows.org_vocab_end_index]
    if isinstance(layer, RowParallelLinear) and whole.dim() == 2:
        width = layer.input_size_per_partition
        return whole[:, layer.tp_rank * width : (layer.tp_rank + 1) * width]
    if not isinstance(layer, ColumnParallelLinear):
        return whole
    if part < 0:
        if len(layer.output_partition_sizes) > 1 and layer.tp_size > 1:
            raise UserError(
                "a layer that is stacked in the model's own files cannot be verified over several GPUs; set "
                "rl.vllm.tensor_parallel: 1",
                place="rl.vllm.tensor_parallel",
            )
        height, rank = sum(layer.output_partition_sizes), layer.tp_rank
    else:
        height = layer.output_partition_sizes[part]
        # With fewer key-value heads than workers, several workers have the same one.
        rank = layer.tp_rank // (getattr(layer, "num_kv_head_replicas", 1) if part else 1)
    return whole[rank * height : (rank + 1) * height]


def pack_again(model: Any) -> None:
    """The CPU build packs a layer's weight as it is loaded; a projection tied to the embedding is never loaded."""
    for _, layer in tied_heads(model):
        layer.quant_method.process_weights_after_loading(layer)


def tied_heads(model: Any) -> list[tuple[str, Any]]:
    """Vocabulary projections that compute with a packed copy of a weight which is the embedding's."""
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if hasattr(layer, "cpu_linear") and layer.weight.numel() and not _is_lookup(layer)
    ]


def _no_tensor(name: str) -> UserError:
    return UserError(f"vLLM's model or its files have no {name}; set rl.engine: ours", place="rl.engine")


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _bare(name: str) -> str:
    return name.removeprefix("base_model.model.")

"""Estimates of memory from a model's shape: what a learner or a rollout actor holds, in GB, by what it is for.

They leave out fragmentation and what a library takes for itself beyond a constant: expect 10 to 20 % more.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlrp.algorithms import ALGORITHMS
from rlrp.config import Config
from rlrp.shapes import Shape, model_shape

GB = 1e9
WIDTH = {"float32": 4, "bfloat16": 2}
_OVERHEAD = 0.6
"""Python, torch and a context on the card."""
_WORKSPACE = 1.5
"""vLLM's activations and graphs."""
Parts = dict[str, float]


@dataclass(frozen=True)
class Training:
    """How a learner holds what it trains."""

    dtype: str = "float32"
    lora_rank: int | None = 16
    """None: all weights are trained."""
    workers: int = 1
    zero: int = 0
    """ZeRO's stage: 1 shards the optimizer over the workers, 2 gradients too, 3 weights too (arXiv 1910.02054, 3)."""
    token_budget: int = 1600
    checkpointing: bool = False
    """Activations are computed again in the backward pass; each layer keeps its input alone."""
    anchor: bool = True
    """A frozen copy for the KL; with an adapter it is the base model and costs nothing."""
    critic: Shape | None = None
    """A critic's model of its own, with an adapter of ``critic_rank``."""
    critic_rank: int | None = None
    """Rank of the critic's adapter; without a model of its own it lies on the policy's base."""
    offload_optimizer: bool = False
    offload_weights: bool = False


def learner_parts(shape: Shape, training: Training) -> Parts:
    """What one learner worker holds on its device, in GB."""
    width = WIDTH[training.dtype]
    weights, gradients, optimizer = _bytes(shape, training.lora_rank, width)
    shard = _shards(training)
    parts = {
        "weights": weights * shard[3],
        "gradients": gradients * shard[2],
        "optimizer": 0.0 if training.offload_optimizer else optimizer * shard[1],
        "activations": activation_bytes(shape, training.token_budget, width, training.checkpointing),
    }
    if training.offload_weights:
        parts["weights"] = 2 * shape.linear / shape.layers * width  # the layer in use and the one that is fetched
    if training.lora_rank is None and training.anchor:
        parts["anchor"] = shape.parameters * width * shard[3]
    if training.critic_rank:
        base = training.critic
        held = _bytes(base or shape, training.critic_rank, width)
        own = 0.0 if base is None and training.lora_rank else held[0] * shard[3]
        parts["critic"] = own + held[1] * shard[2] + held[2] * shard[1]
    return {name: value / GB for name, value in parts.items()} | {"overhead": _OVERHEAD}


def host_gb(shape: Shape, training: Training) -> float:
    """What offloading puts into the machine's memory per worker, in GB."""
    weights, _, optimizer = _bytes(shape, training.lora_rank, WIDTH[training.dtype])
    shard = _shards(training)
    moved = optimizer * shard[1] if training.offload_optimizer else 0.0
    return (moved + (weights * shard[3] if training.offload_weights else 0.0)) / GB


def sync_gb(shape: Shape, training: Training) -> float:
    """What goes from the learner to every node with rollout actors after a step, in GB: the adapter, or all weights."""
    if training.lora_rank is not None:
        return 4.0 * shape.adapter(training.lora_rank) / GB
    return shape.parameters * WIDTH[training.dtype] / GB


def checkpoint_gb(shape: Shape, training: Training) -> float:
    """What a checkpoint takes on disk, in GB: what is sent, and the optimizer (with the critic's own)."""
    optimizer = _bytes(shape, training.lora_rank, WIDTH[training.dtype])[2]
    critic = 12.0 * (training.critic or shape).adapter(training.critic_rank) if training.critic_rank else 0.0
    return sync_gb(shape, training) + (optimizer + critic) / GB


def rollout_parts(shape: Shape, dtype: str, new_tokens: int, *, at_once: int = 64) -> Parts:
    """What an actor of our own engine holds: the weights, a second set with the adapter merged in, and the cache of
    ``at_once`` replies. The prompts' keys and values come on top."""
    width = WIDTH[dtype]
    return {
        "weights": shape.parameters * width / GB,
        "merged": shape.linear * width / GB,
        "replies' cache": shape.kv_width * width * new_tokens * at_once / GB,
        "overhead": _OVERHEAD,
    }


def vllm_parts(shape: Shape, dtype: str, utilization: float, card_gb: float, gpus: int = 1) -> tuple[Parts, int]:
    """What a vLLM engine holds on each of its GPUs, and how many tokens its cache then has room for in all.

    It takes ``utilization`` of the card whatever the model needs: what weights and workspace leave is cache.
    """
    width = WIDTH[dtype]
    weights = shape.parameters * width / gpus / GB
    cache = utilization * card_gb - weights - _WORKSPACE
    tokens = int(max(0.0, cache) * gpus * GB / (shape.kv_width * width))
    return {"weights": weights, "workspace": _WORKSPACE, "cache": max(0.0, cache)}, tokens


@dataclass(frozen=True)
class Estimate:
    """What one actor of a pool holds, on its card if it has one."""

    parts: Parts
    note: str = ""

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {gb:.1f}" for name, gb in self.parts.items() if gb >= 0.05)
        return f"{self.total:.1f} GB ({parts})" + (f"; {self.note}" if self.note else "")


def memory_estimates(config: Config, card_gb: float | None = None) -> dict[str, Estimate]:
    """By pool; empty if the model's size is not known. ``card_gb`` is the memory of a GPU, if one is known.

    Of the reward only the terms that are always there are counted: language models that judge come on top.
    """
    shape = model_shape(config.model)
    if shape is None:
        return {}
    training = training_of(config)
    moved = host_gb(shape, training)
    return {
        "rollout": _rollout(config, shape, card_gb),
        "reward": Estimate({"terms": 0.5, "overhead": _OVERHEAD}, "plus language models among the terms, if any"),
        "learner": Estimate(
            learner_parts(shape, training), f"plus {moved:.1f} GB of the machine's memory" if moved else ""
        ),
    }


def _rollout(config: Config, shape: Shape, card_gb: float | None) -> Estimate:
    rl, user = config.rl, user_parts(config)
    if rl.engine == "ours":
        parts = rollout_parts(shape, rl.dtype, rl.max_new_tokens) | user
        return Estimate(parts, "plus the prompts' keys and values")
    if card_gb is None or config.cluster.rollout.gpus == 0:
        return Estimate(
            {"weights": shape.parameters * WIDTH[rl.dtype] / GB, "workspace": _WORKSPACE} | user, "plus cache"
        )
    gpus = rl.vllm.tensor_parallel
    parts, tokens = vllm_parts(shape, rl.dtype, rl.vllm.gpu_memory_utilization, card_gb, gpus)
    room = f"a cache for {tokens:,} tokens" if tokens else "no room for a cache"
    return Estimate(parts | user, room + (f", over {gpus} GPUs; figures of each" if gpus > 1 else ""))


def user_parts(config: Config) -> Parts:
    """What the model in the user's part of episodes adds to a rollout actor, if there is one whose size is known."""
    episodes = config.rl.episodes
    shape = model_shape(episodes.user.model) if episodes and episodes.user.model else None
    return {"user model": shape.parameters * WIDTH[config.rl.dtype] / GB} if shape else {}


def training_of(config: Config) -> Training:
    """The learner as a configuration has it."""
    rl = config.rl
    return Training(
        dtype=rl.dtype,
        lora_rank=rl.lora.r if rl.lora else None,
        workers=config.cluster.learner.actors,
        zero=rl.zero.stage if rl.zero else 0,
        token_budget=rl.token_budget,
        checkpointing=rl.gradient_checkpointing,
        anchor=rl.kl.coef > 0 or rl.kl.general > 0,
        offload_optimizer=bool(rl.zero and rl.zero.offload_optimizer),
        offload_weights=bool(rl.zero and rl.zero.offload_parameters),
        critic=model_shape(rl.critic.model) if rl.critic.model else None,
        critic_rank=rl.critic.lora.r if ALGORITHMS[rl.algorithm].critic else None,
    )


def activation_bytes(shape: Shape, tokens: int, width: int, checkpointing: bool) -> float:
    """Per token and layer the backward pass keeps about ten vectors of the hidden and four of the MLP's size."""
    layer = float(tokens * (10 * shape.hidden + 4 * shape.intermediate) * width)
    if not checkpointing:
        return layer * shape.layers
    return layer + tokens * shape.layers * shape.hidden * width


def _bytes(shape: Shape, rank: int | None, width: int) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer. Adam's two moments and a low-precision model's master copy are
    float32; an adapter is float32 throughout."""
    if rank is not None:
        adapter = shape.adapter(rank)
        return shape.parameters * width + 4.0 * adapter, 4.0 * adapter, 8.0 * adapter
    master = 4.0 if width < 4 else 0.0
    return (
        float(shape.parameters * width),
        float(shape.parameters * width),
        shape.parameters * (8.0 + master),
    )


def _shards(training: Training) -> dict[int, float]:
    """What share of a thing a worker holds, by the stage from which on it is sharded."""
    return {stage: 1 / training.workers if training.zero >= stage else 1.0 for stage in (1, 2, 3)}

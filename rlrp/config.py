"""Typed settings. One YAML file is one experiment; unknown keys are errors; every field says what it does."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlrp.algorithms import ALGORITHMS, Correction, CorrectionLevel, KlPlace, Name, Scale
from rlrp.errors import UserError
from rlrp.files import read_text

Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen once read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_by_name=True, serialize_by_alias=True
    )


class DataConfig(Settings):
    """Where cards, dialogues and prompts are. ``builtin:`` names what the package ships."""

    cards: str = "builtin:cards/en"
    """A folder or file of character cards (JSON, PNG, charx)."""
    dialogues: str = "builtin:dialogues/en"
    """Dialogues of those characters for SFT and for the reward's positives."""
    contrasts: str | None = "builtin:contrasts/en"
    """Matched pairs of an in-role reply and a faulty one, for the reward; null without."""
    general: str | None = "builtin:general/en.jsonl"
    """General question-answer pairs that keep what the model could do; null without."""
    prompts: str = "builtin:prompts/en.jsonl"
    """What users say in RL: each line meets a training card."""
    held_out: float | str = "builtin:splits.json"
    """Characters never trained on: a share of the cards, or a file that names them."""


class LoraConfig(Settings):
    """Low-rank adapters (arXiv 2106.09685)."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """The update is scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"
    """Modules to adapt: their names, or all linear layers but the vocabulary projection."""


class SftConfig(Settings):
    """Supervised fine-tuning on role-play dialogues mixed with general data."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the mixture; may be a fraction."""
    batch_size: int = Field(4, ge=1)
    """Dialogues per optimizer step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Higher than usual, with a long warm-up, against overfitting on few dialogues per character."""
    warmup_ratio: Fraction = 0.15
    """Share of the steps in which the learning rate rises."""
    general_share: float = 0.25
    """Share of general data among all examples: above 0.5 is refused, outside 0.2 to 0.3 is warned about."""
    max_tokens: int = Field(1024, ge=16)
    """Longest dialogue in tokens; a longer one loses its last turns."""
    lora: LoraConfig = LoraConfig()


class HeadConfig(Settings):
    """Training of the in-character classifier's cross-encoder and lm heads; the linear head has nothing to choose."""

    epochs: int = Field(2, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    """null takes the head's own."""
    max_length: int = Field(320, ge=32)
    """Tokens of card, messages and reply together; the card is cut first, a third is kept for the reply."""
    messages: int = Field(4, ge=1)
    """How many of the last messages are read."""
    negatives: float = Field(2.0, gt=0)
    """Faulty replies in an epoch for each one in role."""
    batch: int = Field(16, ge=1)
    """Replies in an optimizer step."""
    token_budget: int = Field(4096, ge=32)
    """Tokens that go through the model at once; a step adds up gradients over as many parts as it takes."""
    depth: float = Field(1.0, gt=0, le=1)
    """lm: the share of the model's layers that are run; half of them cost half."""
    lora_r: int = Field(16, ge=1)
    """lm: the rank of the adapter."""
    device: str = "auto"
    """``auto`` is a GPU (in bfloat16) where there is one, else the CPU."""


class RewardConfig(Settings):
    """The composite reward: a trained one by path, or one to train from ``data``."""

    path: str | None = None
    """A ``reward.yaml`` made by ``rlrp reward train``; null trains one in the run directory."""
    encoder: str | None = None
    """Encoder of the in-character classifier: ``packaged:NAME``, hub id, directory or ``ngrams:N``; null takes
    MiniLM for English and character n-grams for Chinese."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weights that replace the defaults of the composite, by term; 0 logs a term without optimising it."""
    length: tuple[int, int] | None = None
    """The length guard's band (words; Chinese: characters); null keeps the term's own."""
    base_replies: int = Field(96, ge=0)
    """Replies that the base model is asked for, as negatives: what an assistant says."""
    head: Literal["linear", "cross-encoder", "lm"] = "linear"
    """Of the in-character classifier, of growing cost: ``linear`` trains in a minute on a CPU, the other two are made
    for a GPU."""
    base: str | None = None
    """The model that the cross-encoder or lm head starts from: ``packaged:NAME``, hub id or directory; null takes a
    small English one."""
    head_options: HeadConfig = HeadConfig()
    length_matched: bool | None = None
    """Weigh negatives so that they are as long as replies in role; null does so for cross-encoder and lm alone."""


class KlConfig(Settings):
    """The anchor: KL(policy || SFT checkpoint)."""

    place: KlPlace = Field("loss", alias="in")
    """``loss``: beside the surrogate, in nats a token. ``reward``: k1 taken from the reward of the token it is of (ppo,
    reinforce++), or of the whole reply (its sum, in nats a reply). ppo, rloo and reinforce++: ``reward``."""
    coef: float = Field(0.05, ge=0)
    """Weight of the KL; 0 leaves the anchor out (and saves the reference forward)."""
    target: float | None = Field(0.10, gt=0)
    """Per-token KL in nats that an adaptive coefficient steers to; null keeps ``coef`` fixed."""
    gain: float = Field(0.2, gt=0)
    """How strongly the coefficient answers, per step."""
    min_coef: float = Field(1e-4, ge=0)
    """The adaptive coefficient falls no lower. A short run that starts far below its target lets go of the anchor, and
    has no steps left to take it up again."""
    estimator: Literal["k2", "k3", "k3_unbiased", "full"] = "k3_unbiased"
    """In the loss: k2, k3 and k3_unbiased are of the sampled token; ``full`` is of the whole vocabulary at every token
    of the replies, without their noise and at the price of a second set of logits."""
    general: int = Field(0, ge=0)
    """General question-answer pairs (``data.general``) per step on which the policy is held to the anchor too."""
    general_coef: float = Field(1.0, gt=0)
    """Weight in the loss of the KL on those pairs."""


class CriticConfig(Settings):
    """ppo: what predicts the reward to come at every token, by a value head on a language model's hidden states."""

    model: str | None = None
    """null: an adapter of its own on the policy's base model. Else a model of its own, with an adapter, that has the
    policy's tokenizer: hub id, directory or ``packaged:NAME``."""
    lora: LoraConfig = LoraConfig()
    learning_rate: float = Field(1e-3, gt=0)
    """The head starts at about 0 and has further to go than the policy."""
    warmup_steps: int = Field(2, ge=0)
    """First steps, in which only the critic learns and the policy stays as it is."""
    value_clip: float | None = Field(0.2, gt=0)
    """How far one step may move a value towards its return, in units of the reward; null does not limit it."""
    gamma: Fraction = 1.0
    """What a reward one token later is worth."""
    lam: Fraction = 0.95
    """GAE: 1 believes the rewards alone, 0 the critic."""


class CorrectionConfig(Settings):
    """Importance weights for replies that another policy drew than the learner's: stale, or rounded otherwise.

    With them the clipped ratio is against the learner's own log-probabilities at the start of the step.
    """

    kind: Correction = "none"
    """``truncate`` bounds a weight, ``mask`` makes one beyond its bounds 0."""
    level: CorrectionLevel = "token"
    """Weights of single tokens, or one for a reply: the product of its tokens'."""
    cap: float = Field(2.0, ge=1)
    """Upper bound of learner over sampler."""
    floor: float | None = Field(None, ge=0, le=1)
    """Lower bound; null is none for ``truncate`` and 1 / ``cap`` for ``mask``."""


class OverlongConfig(Settings):
    """DAPO's soft punishment of replies that come near ``rl.max_new_tokens``."""

    buffer: int = Field(ge=1)
    """Tokens before the longest reply over which the punishment grows from 0 to ``penalty``."""
    penalty: float = Field(1.0, gt=0)
    """The whole punishment, taken from the total before advantages are made."""


class DynamicSamplingConfig(Settings):
    """DAPO's dynamic sampling: prompts whose replies all got the same reward are replaced by others."""

    rounds: int = Field(2, ge=1)
    """How often a step may draw again; what is still equal then stays in the batch."""


class LmConfig(Settings):
    """How models are run, by whatever runs them: sampling, learning, scoring, evaluation."""

    share_prefix: bool = True
    """Compute each prompt once per group; false takes the plain path everywhere: the same results, slower."""


class UserConfig(Settings):
    """Who talks with the policy in episodes: a script or another language model, one of the two."""

    script: str | None = None
    """A file as ``data.prompts``. Where the prompt's line begins a conversation of it (its ``then`` says how it goes
    on), that goes on, and the episode ends with it; elsewhere further lines are drawn from it."""
    model: str | None = None
    """The model in the user's part, e.g. the base assistant: hub id, directory or ``packaged:NAME``. It lies beside the
    policy in every rollout actor."""
    chat_template: str | None = None
    """For a model without a template of its own, as ``chat_template``."""
    personas: str | None = None
    """A text file of who the model may be, a paragraph each, with the macros of cards (``{{char}}``, ``{{user}}``); one
    is drawn for each prompt. null takes ``builtin:users/en.txt`` or ``builtin:users/zh.txt`` by the card's language."""
    temperature: float = Field(0.9, ge=0)
    max_new_tokens: int = Field(48, ge=1)
    """The model's longest line in tokens; one that is longer is broken off there."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> UserConfig:
        if (self.script is None) == (self.model is None):
            got = "both" if self.script else "neither"
            raise ValueError(f"got {got}, expected one of script and model")
        for name in ("chat_template", "personas", "temperature", "max_new_tokens"):
            if self.script is not None and getattr(self, name) != UserConfig.model_fields[name].default:
                raise ValueError(f"{name} is a user model's; a script has no use for it")
        return self


class EpisodesConfig(Settings):
    """Conversations of several turns: after each reply a simulated user answers, and the policy replies again."""

    turns: int = Field(ge=2)
    """The policy's replies in an episode, at most: it ends early with a reply broken off at ``rl.max_new_tokens``, and
    when the user has nothing more to say."""
    user: UserConfig
    judge: Literal["last", "every"] = "last"
    """Which replies the reward is asked about. ``every``: a conversation's total is the mean over its replies."""


class VllmConfig(Settings):
    """vLLM as rollout engine (``pip install 'rlrp[vllm]'``). Prefix caching is on; weights are merged and verified."""

    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory for weights and keys and values; less where a learner shares the GPU."""
    max_model_len: int | None = Field(None, ge=1)
    """Longest prompt and reply together; null takes the model's own, whose keys and values must fit."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that one engine spreads the model over: ``cluster.rollout.gpus`` must be as many."""
    enforce_eager: bool = False
    """No compilation and no CUDA graphs: starts sooner, samples slower. The CPU build always runs so."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of ``vllm.LLM``, passed on as they are, such as ``max_num_seqs: 128``."""

    @model_validator(mode="after")
    def _options_of_ours(self) -> VllmConfig:
        for name, place in _VLLM_OPTIONS_OF_OURS.items():
            if name in self.options:
                raise ValueError(f"rl.vllm.options: got {name}, which follows from {place}; leave it out")
        return self


_VLLM_OPTIONS_OF_OURS = {
    "model": "model",
    "tokenizer": "model",
    "dtype": "rl.dtype",
    "gpu_memory_utilization": "rl.vllm.gpu_memory_utilization",
    "max_model_len": "rl.vllm.max_model_len",
    "tensor_parallel_size": "rl.vllm.tensor_parallel",
    "enforce_eager": "rl.vllm.enforce_eager",
    "enable_prefix_caching": "what a group of replies is",
    "logprobs_mode": "what the learner recomputes",
    "generation_config": "rl.temperature",
    "worker_extension_cls": "how weights are sent",
    "quantization": "the policy's weights, which the sampler must hold bit for bit",
}
"""Options of vLLM that are not free, and what they follow from."""


_ZERO_OPTIONS_OF_OURS = {
    "train_batch_size": "rl.prompts and rl.group_size",
    "train_micro_batch_size_per_gpu": "rl.token_budget",
    "gradient_accumulation_steps": "rl.token_budget",
    "managed_gradient_accumulation": "rl.token_budget",
    "gradient_clipping": "rl.max_grad_norm",
    "optimizer": "rl.learning_rate",
    "scheduler": "rl.warmup_steps",
    "fp16": "rl.dtype",
    "bf16": "rl.dtype",
    "data_types": "rl.dtype",
    "gradient_allreduce_op": "the batch, in which every reply has its weight",
    "zero_optimization.stage": "rl.zero.stage",
    "zero_optimization.offload_optimizer": "rl.zero.offload_optimizer",
    "zero_optimization.offload_param": "rl.zero.offload_parameters",
}
"""Parts of DeepSpeed's configuration that are not free, and what they follow from."""


class ZeroConfig(Settings):
    """DeepSpeed's ZeRO (arXiv 1910.02054): what ``cluster.learner.actors`` workers need not each hold a copy of."""

    stage: Literal[1, 2, 3] = 2
    """Spread over the workers are: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    offload_optimizer: bool = False
    """The optimizer's state and step lie on the CPU."""
    offload_parameters: bool = False
    """Stage 3: weights lie in the machine's memory and come to the GPU layer by layer."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further DeepSpeed configuration, passed on as it is, such as
    ``{zero_optimization: {overlap_comm: true}}``."""

    @model_validator(mode="after")
    def _fits_together(self) -> ZeroConfig:
        if self.offload_parameters and self.stage < 3:
            raise ValueError(f"offload_parameters: got true with stage {self.stage}; weights are spread by stage 3")
        inner = self.options.get("zero_optimization")
        given = {*self.options, *(f"zero_optimization.{name}" for name in (inner if isinstance(inner, dict) else {}))}
        for name, place in _ZERO_OPTIONS_OF_OURS.items():
            if name in given:
                raise ValueError(f"rl.zero.options: got {name}, which follows from {place}; leave it out")
        return self


class RlConfig(Settings):
    """A step draws ``prompts * group_size`` replies and makes ``epochs * minibatches`` updates."""

    algorithm: Name = "grpo"
    """What it is made of, and its defaults of the clips and ``advantage_scale``, is a table in ``rlrp.algorithms``."""
    steps: int = Field(20, ge=1)
    prompts: int = Field(4, ge=1)
    """Prompts per step."""
    group_size: int = Field(8, ge=1)
    """Replies per prompt; ppo and reinforce++, which have no baseline of the group, do with one."""
    epochs: int = Field(1, ge=1)
    """Passes over a step's replies."""
    minibatches: int = Field(1, ge=1)
    """Updates per pass, each on a share of the step's prompts."""
    token_budget: int = Field(1600, ge=64)
    """Most tokens in one micro-batch: memory, not results, depends on it."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest reply in tokens; in episodes each reply's own."""
    temperature: float = Field(0.9, gt=0)
    """Sampling temperature; log-probabilities everywhere are at this temperature."""
    learning_rate: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(2, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    clip_low: float = Field(0.2, gt=0)
    """Lower clipping of the ratio, at 1 - ``clip_low``; gspo: 0.0003, cispo: 1, which is none. In bfloat16 sampler and
    learner can round further apart than gspo's clips: watch ``clip_fraction``."""
    clip_high: float = Field(0.28, gt=0)
    """Upper clipping of the ratio, at 1 + ``clip_high``; above ``clip_low`` it is DAPO's clip-higher. gspo: 0.0004,
    cispo: 4, rloo and reinforce++: 0.2."""
    advantage_scale: Scale = "group"
    """What advantages are divided by: the rewards' standard deviation in the ``group``, the ``batch``, all groups of
    the ``character``; ``terms``, each reward term's in the group, before they are weighed (GDPO); ``none``; or
    ``whiten``: mean 0 and deviation 1 over the batch. rloo: ``none`` (or ``whiten``), ppo and reinforce++:
    ``whiten``."""
    kl: KlConfig = KlConfig()
    episodes: EpisodesConfig | None = None
    """Conversations with a simulated user; null: a completion is one reply to the prompt."""
    critic: CriticConfig = CriticConfig()
    """ppo alone has one."""
    correction: CorrectionConfig = CorrectionConfig()
    overlong: OverlongConfig | None = None
    """Soft punishment of replies near the longest; part of dapo's paper, null without."""
    dynamic_sampling: DynamicSamplingConfig | None = None
    """Draw again what teaches nothing; part of dapo's paper, null without."""
    lora: LoraConfig | None = LoraConfig()
    """null trains all weights, from which the anchor then needs a copy of its own."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more work, and each layer keeps its input alone."""
    zero: ZeroConfig | None = None
    """How several learner workers share what they train (``pip install 'rlrp[deepspeed]'``); null is one worker in
    plain torch."""
    checkpoint_every: int = Field(10, ge=1)
    """Steps between checkpoints; the last step always leaves one."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the newest stay. Beside them the one with the best reward stays, as ``checkpoints/best``."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    engine: Literal["ours", "vllm"] = "ours"
    """What rollout workers sample with: ours computes each prompt once per group, on CPU or GPU; vllm is faster on a
    GPU."""
    vllm: VllmConfig = VllmConfig()
    """For ``engine: vllm``."""

    staleness: int = Field(0, ge=0)
    """0: every group is sampled by the policy that learns from it, and a seed gives the same bits. k: up to k further
    batches are sampled while the learner works, by policies up to k steps older."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_algorithm(cls, raw: Any) -> Any:
        name = raw.get("algorithm", "grpo") if isinstance(raw, dict) else None
        algorithm = ALGORITHMS.get(cast(Name, name)) if isinstance(name, str) else None
        if algorithm is None:
            return raw
        own, kl = algorithm.defaults(), raw.get("kl", {})
        if isinstance(kl, dict):
            raw = raw | {"kl": own["kl"] | kl}
        return own | raw

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> RlConfig:
        algorithm = ALGORITHMS[self.algorithm]
        if self.advantage_scale not in algorithm.scales:
            raise ValueError(
                f"rl.advantage_scale: got {self.advantage_scale!r}, expected "
                f"{' or '.join(map(repr, algorithm.scales))} for {self.algorithm}"
            )
        if self.group_size < algorithm.least_group:
            raise ValueError(
                f"rl.group_size: got {self.group_size}, need >= {algorithm.least_group} for {self.algorithm} (every "
                "advantage would be 0); ppo and reinforce++ do with 1"
            )
        if not algorithm.critic and "critic" in self.model_fields_set and self.critic != CriticConfig():
            raise ValueError(f"rl.critic: {self.algorithm} has no critic; rl.algorithm: ppo has one")
        if self.dynamic_sampling and algorithm.baseline == "none":
            raise ValueError(
                f"rl.dynamic_sampling: {self.algorithm} has no baseline of the group, so groups of equal rewards "
                "teach it; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> RlConfig:
        in_reward = self.kl.place == "reward" and self.kl.coef > 0
        if in_reward and self.advantage_scale == "terms":
            raise ValueError("rl.kl.in: a KL in the reward is no term; rl.advantage_scale: terms needs rl.kl.in: loss")
        if in_reward and "estimator" in self.kl.model_fields_set and self.kl.estimator != "k3_unbiased":
            raise ValueError(
                f"rl.kl.estimator: got {self.kl.estimator!r}; in the reward the KL is k1, estimators are for "
                "rl.kl.in: loss"
            )
        if self.minibatches > self.prompts:
            raise ValueError(f"rl.minibatches: got {self.minibatches}, at most the {self.prompts} of rl.prompts")
        if self.overlong and self.overlong.buffer > self.max_new_tokens:
            raise ValueError(
                f"rl.overlong.buffer: got {self.overlong.buffer}, at most the {self.max_new_tokens} tokens of "
                "rl.max_new_tokens"
            )
        return self


class WorkerConfig(Settings):
    """A pool of Ray actors and what each asks of the cluster."""

    actors: int = Field(1, ge=1)
    cpus: float = Field(0.5, ge=0)
    """Logical CPUs per actor."""
    gpus: float = Field(0, ge=0)
    """GPUs per actor; a fraction shares one."""
    threads: int | None = Field(None, ge=1)
    """torch threads per actor; null takes the machine's cores divided by the actors of the pool."""
    memory_gb: float | None = Field(None, gt=0)
    max_actors: int | None = Field(None, ge=1)
    """The pool grows up to so many while work waits, as an autoscaling cluster makes room; null: it does not grow."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources that each actor asks for, such as ``{"L40S": 0.5}``."""
    timeout_s: float | None = Field(None, gt=0)
    """A call that takes longer has lost its actor: another is started and does it again; null waits."""

    @model_validator(mode="after")
    def _grows(self) -> WorkerConfig:
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors: got {self.max_actors}, expected at least actors ({self.actors}) or null")
        return self


class NodeConfig(Settings):
    """Machines of a cluster that is not there yet, for ``--dry-run``."""

    count: int = Field(1, ge=1)
    """How many of them."""
    cpus: float = Field(gt=0)
    gpus: int = Field(0, ge=0)
    memory_gb: float | None = Field(None, gt=0)
    """Memory of the machine."""
    gpu_memory_gb: float | None = Field(None, gt=0)
    """Memory of one GPU."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Resources of the cluster's own."""


class ClusterConfig(Settings):
    """Where workers run. Ray starts itself on this machine unless RAY_ADDRESS or a job names a cluster."""

    rollout: WorkerConfig = WorkerConfig()
    reward: WorkerConfig = WorkerConfig()
    learner: WorkerConfig = WorkerConfig()
    max_restarts: int = Field(8, ge=0)
    """How often in a row actors of a pool, or the learner, are started again with no work done in between."""
    max_tries: int = Field(3, ge=1)
    """A prompt over which so many actors died is given up, and reported as quarantined."""
    straggler: float | None = Field(3.0, gt=1)
    """Work that takes so many times what its like takes is also given to an idle actor, and the first answer counts;
    null waits for it."""
    start_timeout_s: float = Field(1800, gt=0)
    """How long a run waits for room on the cluster, and a pool for its first actor."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] | None = None
    """Reserve the places of all actors together, packed on few nodes or spread over many (Ray's placement groups);
    null lets every actor find its own."""
    colocate: bool = False
    """Rollout actor i and learner worker i share a node, and a GPU where their ``gpus`` add up to at most one."""
    nodes: list[NodeConfig] = Field(default_factory=list)
    """The cluster that ``--dry-run`` checks the placement against, unless RAY_ADDRESS or ``--cluster`` names one."""

    @model_validator(mode="after")
    def _shares_bundles(self) -> ClusterConfig:
        if self.colocate and self.placement is None:
            raise ValueError("colocate: got true without a placement; set placement, such as PACK")
        return self


class TrackingConfig(Settings):
    """Where a run's numbers go beside its ``metrics.jsonl``."""

    to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = ["tensorboard"]
    """Trackers by name; all but TensorBoard come as extras, such as ``rlrp[wandb]``. An empty list is none."""
    project: str = "rlrp"
    """The project (MLflow: the experiment) that the run appears in, under the run's ``name``."""


class EvaluationConfig(Settings):
    """What policies are compared on: held-out cards, probes, general ability."""

    prompts: str = "builtin:evaluation/prompts_en.jsonl"
    over_cooperation: str = "builtin:evaluation/over_cooperation_en.jsonl"
    general: str = "builtin:evaluation/general_en.jsonl"
    text: str = "builtin:evaluation/text_en.txt"
    prompts_per_card: int = Field(4, ge=1)
    samples_per_prompt: int = Field(2, ge=1)
    probes_per_card: int = Field(2, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.7, ge=0)
    general_items: int | None = Field(None, ge=1)
    """How many general items to ask; null asks all."""
    resamples: int = Field(10_000, ge=100)


class Config(Settings):
    """One experiment."""

    name: str = Field("run", pattern=r"^[\w.-]+$")
    seed: int = Field(0, ge=0)
    run_dir: str | None = None
    """Where everything goes; null is ``runs/<name>``."""
    model: str = "packaged:smollm2-135m-instruct"
    """Hub id, directory, adapter directory, or ``packaged:NAME``."""
    chat_template: str | None = None
    """A Jinja file or a built-in name, for models without a template of their own."""
    accept_terms: bool = False
    """Accept the terms of a packaged model that has some."""
    data: DataConfig = DataConfig()
    sft: SftConfig | None = SftConfig()
    """null starts RL from ``model`` itself: it is your SFT checkpoint."""
    reward: RewardConfig = RewardConfig()
    rl: RlConfig = RlConfig()
    lm: LmConfig = LmConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _shares(self) -> Config:
        if self.sft is not None and self.sft.general_share > 0.5:
            raise ValueError(
                f"sft.general_share: got {self.sft.general_share}, at most 0.5 (0.2 to 0.3 works well): role-play "
                "dialogue must dominate"
            )
        if self.rl.kl.general and not self.data.general:
            raise ValueError("rl.kl.general asks for general pairs and there are none; set data.general or leave it 0")
        return self

    @model_validator(mode="after")
    def _learners(self) -> Config:
        workers, zero = self.cluster.learner.actors, self.rl.zero
        if workers > 1 and zero is None:
            raise ValueError(
                f"cluster.learner.actors: got {workers} without rl.zero; several workers share a learner by DeepSpeed: "
                "set rl.zero.stage"
            )
        if self.cluster.learner.max_actors is not None:
            raise ValueError("cluster.learner.max_actors: a learner does not grow while it learns; leave it out")
        if not ALGORITHMS[self.rl.algorithm].critic or self.rl.critic.model is not None:
            return self
        if zero is not None and zero.stage == 3:
            raise ValueError(
                "rl.critic.model: got null with rl.zero.stage 3; a critic shares the policy's weights only where they "
                "are whole: give it a model of its own or take stage 2"
            )
        if self.rl.lora is None:
            raise ValueError(
                "rl.critic.model: got null with rl.lora null; a critic cannot lie on weights that are trained: give it "
                "a model of its own"
            )
        return self

    @model_validator(mode="after")
    def _engine(self) -> Config:
        if self.rl.engine != "vllm":
            return self
        gpus, parallel = self.cluster.rollout.gpus, self.rl.vllm.tensor_parallel
        if gpus > 0 and parallel > 1 and gpus != parallel:
            raise ValueError(
                f"rl.vllm.tensor_parallel: got {parallel} with cluster.rollout.gpus of {gpus:g}; an engine needs as "
                "many GPUs as it spreads the model over"
            )
        if not 0.01 <= self.rl.temperature <= 2:
            raise ValueError(f"rl.temperature: got {self.rl.temperature:g}, expected 0.01 to 2 with rl.engine: vllm")
        return self

    @property
    def run(self) -> Path:
        return Path(self.run_dir or f"runs/{self.name}")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML experiment and apply ``--set a.b=c`` overrides, in order.

    Raises:
        UserError: missing file, no YAML, unknown key, wrong value: one line with file, line and key.
    """
    text = read_text(path)
    try:
        raw = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else None
        raise UserError(f"is not YAML: {getattr(error, 'problem', error)}", file=path, place=place) from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise UserError(f"got a {type(raw).__name__}, expected keys and values", file=path)
    for override in overrides:
        key, value = split_override(override)
        set_value(raw, key.split("."), value)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise _one_line(error, path, node, overrides) from None


def dump_config(config: Config) -> str:
    """The resolved settings as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fingerprint(*sections: Any) -> str:
    """A short hash of settings: a stage's result belongs to the settings it was made with."""
    plain = [s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def split_override(override: str, example: str = "rl.steps=10") -> tuple[str, str]:
    """The key and the value, still text, of ``a.b=c``; UserError, with the ``example``, if it is none."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"got {override!r}, expected KEY=VALUE such as {example}", place="--set")
    return key.strip(), value


def set_value(raw: dict[str, Any], path: Sequence[str], value: str) -> None:
    """Set what lies at ``path`` of nested mappings to a YAML value; mappings on the way are made where there are none.

    Raises:
        UserError: something on the way is no mapping, or the value is no YAML.
    """
    key, (*parents, last) = ".".join(path), path
    target = raw
    for parent in parents:
        child = target.get(parent)
        if child is None:
            child = target[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"{parent!r} is not a section", place=f"--set {key}")
        target = child
    try:
        target[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{value!r} is not a YAML value", place=f"--set {key}") from None


_KEY = re.compile(r"([\w.-]+): (.*)", re.DOTALL)
"""A message of a section's check that begins with the key that it is about."""


def _one_line(error: ValidationError, path: str | Path, node: Any, overrides: Sequence[str]) -> UserError:
    first = error.errors()[0]
    loc = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(loc[-1], _fields_at(loc[:-1]), n=1)
        message = f"unknown key {loc[-1]!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        if not close:
            message += f"; known keys are {', '.join(_fields_at(loc[:-1]))}"
    elif first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        if (named := _KEY.match(message)) and named[1].partition(".")[0] in Config.model_fields:
            loc, message = named[1].split("."), named[2]
            key = named[1]
    else:
        message = f"got {first['input']!r}: {first['msg']}"
    if any(override.partition("=")[0].strip() == key for override in overrides):
        return UserError(message, file="--set", place=key)
    line = _line_of(node, loc)
    return UserError(message, file=path, place=f"line {line}: {key}" if line and key else key or None)


def _fields_at(loc: Sequence[str]) -> list[str]:
    model: Any = Config
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]


def _line_of(node: Any, loc: Sequence[str]) -> int | None:
    """The line of the deepest key of ``loc`` that the file has."""
    line = None
    for part in loc:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((k, v) for k, v in node.value if k.value == part), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line

"""Reinforcement learning from the SFT checkpoint: rollouts, judgements and updates on Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlrp.algorithms import ALGORITHMS
from rlrp.cards import CharacterCard
from rlrp.config import Config, WorkerConfig, fingerprint
from rlrp.dialogue import Message, UserPrompt, read_dialogues, resolve
from rlrp.errors import UserError
from rlrp.lm.chat import ChatFormat
from rlrp.lm.load import load_tokenizer
from rlrp.lm.prompts import Prompt, make_prompt
from rlrp.lm.sampling import SamplingSettings
from rlrp.lm.scoring import TokenGroup
from rlrp.protocols import Reward, Totals
from rlrp.rl.learner import LearnerSettings
from rlrp.rl.order import CARDS, USER_PROMPTS, shuffled
from rlrp.runtime import checkpoints, cluster
from rlrp.runtime.actors import Placement
from rlrp.runtime.batches import Batches, BatchSettings
from rlrp.runtime.learners import RemoteLearner
from rlrp.runtime.loop import LoopSettings
from rlrp.runtime.pool import Faults
from rlrp.runtime.pools import Rollouts, reward_pool
from rlrp.runtime.records import RunLog
from rlrp.runtime.training import Training
from rlrp.runtime.workers import RolloutSettings
from rlrp.stages.sft import lora_settings

_CHECKED = 1000
"""Draws whose prompts are measured before anything starts."""


class PromptOrder:
    """The prompt of a draw: every user prompt once per epoch, each time before another training character.

    A function of the seed and the draw alone, so a resumed run goes on where it was.
    """

    def __init__(
        self,
        chat: ChatFormat,
        cards: dict[str, CharacterCard],
        prompts: Sequence[UserPrompt],
        *,
        seed: int,
    ):
        self.chat, self.cards, self.prompts = chat, cards, list(prompts)
        self.slugs = sorted(cards)
        self.seed = seed

    def __call__(self, draw: int) -> Prompt:
        user = self.prompts[shuffled(draw, len(self.prompts), seed=self.seed, stream=USER_PROMPTS)]
        slug = self.slugs[shuffled(draw, len(self.slugs), seed=self.seed, stream=CARDS)]
        messages = (Message("user", user.text),)
        return make_prompt(self.chat, f"{slug}/{user.id}", slug, self.cards[slug], messages)


def learner_settings(config: Config, model: str, general: Sequence[TokenGroup] = ()) -> LearnerSettings:
    rl, algorithm = config.rl, ALGORITHMS[config.rl.algorithm]
    return LearnerSettings(
        model=model,
        chat_template=config.chat_template,
        lora=lora_settings(rl.lora),
        seed=config.seed,
        learning_rate=rl.learning_rate,
        warmup_steps=rl.warmup_steps,
        max_grad_norm=rl.max_grad_norm,
        aggregate=algorithm.aggregate,
        surrogate=algorithm.surrogate,
        ratio=algorithm.ratio,
        clip_low=rl.clip_low,
        clip_high=rl.clip_high,
        temperature=rl.temperature,
        max_new_tokens=rl.max_new_tokens,
        token_budget=rl.token_budget,
        share_prefix=config.lm.share_prefix,
        kl_coef=rl.kl.coef,
        kl_target=rl.kl.target,
        kl_gain=rl.kl.gain,
        kl_min_coef=rl.kl.min_coef,
        kl_estimator=rl.kl.estimator,
        general=tuple(general),
        general_pairs=rl.kl.general,
        general_coef=rl.kl.general_coef,
        dtype=rl.dtype,
        device=_device(config.cluster.learner),
        threads=_threads(config.cluster.learner),
    )


def general_pairs(config: Config, chat: ChatFormat) -> list[TokenGroup]:
    """The general pairs that the policy is held to, as tokens; none if the configuration asks for none."""
    if not config.rl.kl.general or config.data.general is None:
        return []
    pairs = []
    for dialogue in read_dialogues(resolve(config.data.general)):
        prompt, whole = chat.encode_prompt(dialogue.messages[:-1]), chat.encode_dialogue(dialogue.messages)
        start = len(prompt)
        said = zip(whole.ids[start:], whole.reply_mask[start:], strict=True)
        pairs.append(TokenGroup(prompt, (tuple(token for token, own in said if own),)))
    return pairs


def rl_fingerprint(config: Config, model: str, reward_hash: str) -> str:
    """What must be the same for a run to go on from its checkpoint; more steps and another cluster may differ."""
    rl = config.rl.model_dump(exclude={"steps", "checkpoint_every", "keep_checkpoints", "token_budget"})
    return fingerprint(rl, config.data, config.seed, model, reward_hash)


def check_context(prompts: PromptOrder, draws: int, max_new_tokens: int, context: int) -> None:
    """Refuse, before anything starts, a prompt that leaves no room for its reply."""
    for prompt in map(prompts, range(min(draws, _CHECKED))):
        if len(prompt.ids) + max_new_tokens > context:
            raise UserError(
                f"card {prompt.card_id!r} makes a prompt of {len(prompt.ids)} tokens; with a reply of "
                f"{max_new_tokens} it exceeds the model's context of {context}: shorten the card or lower the "
                "reply's length",
                place="rl.max_new_tokens",
            )


def train_rl(
    config: Config,
    *,
    model: str,
    cards: dict[str, CharacterCard],
    prompts: Sequence[UserPrompt],
    build_reward: Callable[[], Reward],
    totals: Totals,
    reward_hash: str,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Run (or go on with) RL in the run directory; returns the last checkpoint.

    Every reward actor builds its own reward; ``totals`` makes one number of what they say, and its state is part of
    the checkpoints.
    """
    run, rl = config.run, config.rl
    settings = rl_fingerprint(config, model, reward_hash)
    found = checkpoints.latest_checkpoint(run, settings=settings, warn=False)
    if found and found[1]["step"] >= rl.steps:
        checkpoints.point_last(found[0])  # the run may have been killed before it did so itself
        return found[0]
    chat = ChatFormat(load_tokenizer(model, chat_template=config.chat_template))
    order = PromptOrder(chat, cards, prompts, seed=config.seed)
    check_context(order, rl.steps * rl.prompts, rl.max_new_tokens, _context(model))
    cluster.connect()
    try:
        places = _placements(config)
        rollouts = Rollouts(
            _rollout_settings(config, model), places["rollout"], _faults(config, config.cluster.rollout)
        )
        judges = reward_pool(
            build_reward, places["reward"], _faults(config, config.cluster.reward), _threads(config.cluster.reward)
        )
        training = Training(
            folder=run,
            loop=loop_settings(config),
            learner=RemoteLearner(
                learner_settings(config, model, general_pairs(config, chat)),
                places["learner"],
                config.cluster.learner.timeout_s,
                config.cluster.start_timeout_s,
            ),
            batches=Batches(batch_settings(config), order, rollouts, judges, totals),
            totals=totals,
            open_log=lambda start: RunLog(run, start, show),
            settings=settings,
            reward=reward_hash,
            keep=rl.keep_checkpoints,
            max_restarts=config.cluster.max_restarts,
        )
        training.run()
    finally:
        cluster.disconnect()
    return run / "checkpoints" / "last"


def batch_settings(config: Config) -> BatchSettings:
    rl = config.rl
    return BatchSettings(
        prompts=rl.prompts,
        group_size=rl.group_size,
        sampling=SamplingSettings(max_new_tokens=rl.max_new_tokens, temperature=rl.temperature),
        seed=config.seed,
        staleness=rl.staleness,
    )


def loop_settings(config: Config) -> LoopSettings:
    rl = config.rl
    return LoopSettings(
        steps=rl.steps,
        baseline=ALGORITHMS[rl.algorithm].baseline,
        advantage_scale=rl.advantage_scale,
        checkpoint_every=rl.checkpoint_every,
        # Merged and unmerged adapters round differently, in bfloat16 visibly so.
        max_logp_gap=0.01 if rl.dtype == "float32" else 0.25,
    )


def _placements(config: Config) -> dict[str, Placement]:
    """Where the actors of each pool go."""
    wanted = config.cluster
    places = {
        name: Placement(
            actors=worker.actors,
            most=worker.max_actors,
            cpus=worker.cpus,
            gpus=worker.gpus,
            memory_gb=worker.memory_gb,
            resources=worker.resources,
        )
        for name, worker in (("rollout", wanted.rollout), ("reward", wanted.reward), ("learner", wanted.learner))
    }
    if wanted.placement is None:
        return places
    return cluster.reserve(places, wanted.placement, colocate=wanted.colocate, wait_s=wanted.start_timeout_s)


def _faults(config: Config, worker: WorkerConfig) -> Faults:
    wanted = config.cluster
    return Faults(
        max_restarts=wanted.max_restarts,
        max_tries=wanted.max_tries,
        timeout_s=worker.timeout_s,
        start_timeout_s=wanted.start_timeout_s,
        straggler=wanted.straggler,
    )


def _rollout_settings(config: Config, model: str) -> RolloutSettings:
    return RolloutSettings(
        model=model,
        chat_template=config.chat_template,
        lora=lora_settings(config.rl.lora),
        share_prefix=config.lm.share_prefix,
        dtype=config.rl.dtype,
        device=_device(config.cluster.rollout),
        threads=_threads(config.cluster.rollout),
    )


def _context(model: str) -> int:
    from transformers import AutoConfig

    from rlrp.lm.load import resolve_model

    return int(getattr(AutoConfig.from_pretrained(resolve_model(model)), "max_position_embeddings", 1 << 30))


def _device(worker: WorkerConfig) -> str:
    return "cuda" if worker.gpus > 0 else "cpu"


def _threads(worker: WorkerConfig) -> int:
    return worker.threads or max(1, (os.cpu_count() or 1) // worker.actors)

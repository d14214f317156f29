"""Reinforcement learning from the SFT checkpoint: rollouts, judgements and updates on Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlrp.algorithms import ALGORITHMS
from rlrp.cards import CharacterCard
from rlrp.config import Config, CriticConfig, WorkerConfig, fingerprint
from rlrp.dialogue import Message, UserPrompt, read_dialogues, resolve
from rlrp.errors import UserError
from rlrp.lm.chat import ChatFormat
from rlrp.lm.engines.settings import VllmSettings
from rlrp.lm.load import load_tokenizer
from rlrp.lm.prompts import Prompt, make_prompt
from rlrp.lm.sampling import SamplingSettings
from rlrp.lm.scoring import TokenGroup
from rlrp.protocols import Reward, Totals
from rlrp.rl.correction import CorrectionSettings
from rlrp.rl.critic import CriticSettings
from rlrp.rl.learner import LearnerSettings
from rlrp.rl.order import CARDS, USER_PROMPTS, shuffled
from rlrp.rl.zero import ZeroSettings
from rlrp.runtime import checkpoints, cluster
from rlrp.runtime.actors import Placement
from rlrp.runtime.batches import Batches, BatchSettings
from rlrp.runtime.credit import CreditSettings, Overlong
from rlrp.runtime.episodes import EpisodeSettings, most_tokens
from rlrp.runtime.learners import RemoteLearner
from rlrp.runtime.loop import LoopSettings
from rlrp.runtime.pool import Faults
from rlrp.runtime.pools import Rollouts, reward_pool
from rlrp.runtime.records import RunLog
from rlrp.runtime.trackers import Trackers
from rlrp.runtime.training import Training
from rlrp.runtime.workers import RolloutSettings
from rlrp.stages.episodes import episode_settings
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
        lora=lora_settings(rl.lora) if rl.lora else None,
        seed=config.seed,
        learning_rate=rl.learning_rate,
        warmup_steps=rl.warmup_steps,
        max_grad_norm=rl.max_grad_norm,
        epochs=rl.epochs,
        minibatches=rl.minibatches,
        aggregate=algorithm.aggregate,
        surrogate=algorithm.surrogate,
        ratio=algorithm.ratio,
        clip_low=rl.clip_low,
        clip_high=rl.clip_high,
        baseline=algorithm.baseline,
        advantage_scale=rl.advantage_scale,
        critic=critic_settings(rl.critic) if algorithm.critic else None,
        correction=CorrectionSettings(**rl.correction.model_dump()),
        temperature=rl.temperature,
        max_new_tokens=rl.max_new_tokens * (rl.episodes.turns if rl.episodes else 1),
        token_budget=rl.token_budget,
        share_prefix=config.lm.share_prefix,
        kl_place=rl.kl.place,
        kl_coef=rl.kl.coef,
        kl_target=rl.kl.target,
        kl_gain=rl.kl.gain,
        kl_min_coef=rl.kl.min_coef,
        kl_estimator=rl.kl.estimator,
        general=tuple(general),
        general_pairs=rl.kl.general,
        general_coef=rl.kl.general_coef,
        gradient_checkpointing=rl.gradient_checkpointing,
        zero=ZeroSettings(**rl.zero.model_dump()) if rl.zero else None,
        dtype=rl.dtype,
        device=_device(config.cluster.learner),
        threads=_threads(config.cluster.learner),
    )


def critic_settings(critic: CriticConfig) -> CriticSettings:
    return CriticSettings(
        model=critic.model,
        lora=lora_settings(critic.lora),
        **critic.model_dump(include={"learning_rate", "warmup_steps", "value_clip", "gamma", "lam"}),
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
    free = {"steps", "checkpoint_every", "keep_checkpoints", "token_budget", "vllm", "zero", "gradient_checkpointing"}
    rl = config.rl.model_dump(exclude=free)
    return fingerprint(rl, config.data, config.seed, model, reward_hash)


def check_context(
    prompts: PromptOrder, draws: int, max_new_tokens: int, context: int, episodes: EpisodeSettings | None = None
) -> None:
    """Refuse, before anything starts, a prompt that leaves no room for its reply, or for those of all its turns."""
    room = most_tokens(episodes, prompts.chat, max_new_tokens) if episodes else max_new_tokens
    what = f"{episodes.turns} turns of {room} tokens in all" if episodes else f"a reply of {room}"
    for prompt in map(prompts, range(min(draws, _CHECKED))):
        if len(prompt.ids) + room > context:
            raise UserError(
                f"card {prompt.card_id!r} makes a prompt of {len(prompt.ids)} tokens; with {what} it exceeds the "
                f"model's context of {context}: shorten the card or lower the reply's length",
                place="rl.episodes.turns" if episodes else "rl.max_new_tokens",
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
    episodes = episode_settings(config)
    check_context(order, rl.steps * rl.prompts, rl.max_new_tokens, _context(model), episodes)
    cluster.connect(whole_weights=rl.lora is None)
    try:
        places = _placements(config)
        rollouts = Rollouts(
            _rollout_settings(config, model, episodes), places["rollout"], _faults(config, config.cluster.rollout)
        )
        judges = reward_pool(
            build_reward, places["reward"], _faults(config, config.cluster.reward), _threads(config.cluster.reward)
        )
        credit = credit_settings(config, totals.weights())
        training = Training(
            folder=run,
            loop=loop_settings(config, credit),
            learner=RemoteLearner(
                learner_settings(config, model, general_pairs(config, chat)),
                places["learner"],
                config.cluster.learner.timeout_s,
                config.cluster.start_timeout_s,
            ),
            batches=Batches(batch_settings(config, credit), order, rollouts, judges, totals),
            totals=totals,
            open_log=lambda start: RunLog(run, start, show, open_trackers(config, start)),
            settings=settings,
            reward=reward_hash,
            keep=rl.keep_checkpoints,
            max_restarts=config.cluster.max_restarts,
        )
        training.run()
    finally:
        cluster.disconnect()
    return run / "checkpoints" / "last"


def credit_settings(config: Config, term_weights: Mapping[str, float]) -> CreditSettings:
    """How judgements become advantages; ``term_weights`` are those of the reward's terms in its total."""
    rl = config.rl
    overlong = Overlong(rl.max_new_tokens, rl.overlong.buffer, rl.overlong.penalty) if rl.overlong else None
    return CreditSettings(ALGORITHMS[rl.algorithm].baseline, rl.advantage_scale, dict(term_weights), overlong)


def open_trackers(config: Config, start: int) -> Trackers:
    """The trackers that the configuration names, told of the run and its settings; on a cluster its metrics too."""
    return Trackers(
        [*config.tracking.to, *(["ray"] if os.environ.get("RAY_ADDRESS") else [])],
        config.run,
        project=config.tracking.project,
        name=config.name,
        settings=config.model_dump(mode="json"),
        start=start,
    )


def batch_settings(config: Config, credit: CreditSettings) -> BatchSettings:
    rl = config.rl
    return BatchSettings(
        prompts=rl.prompts,
        group_size=rl.group_size,
        sampling=SamplingSettings(max_new_tokens=rl.max_new_tokens, temperature=rl.temperature),
        seed=config.seed,
        staleness=rl.staleness,
        rounds=rl.dynamic_sampling.rounds if rl.dynamic_sampling else 0,
        credit=credit,
    )


def loop_settings(config: Config, credit: CreditSettings) -> LoopSettings:
    rl = config.rl
    return LoopSettings(
        steps=rl.steps,
        credit=credit,
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


def _rollout_settings(config: Config, model: str, episodes: EpisodeSettings | None) -> RolloutSettings:
    return RolloutSettings(
        model=model,
        chat_template=config.chat_template,
        lora=lora_settings(config.rl.lora) if config.rl.lora else None,
        share_prefix=config.lm.share_prefix,
        dtype=config.rl.dtype,
        device=_device(config.cluster.rollout),
        threads=_threads(config.cluster.rollout),
        episodes=episodes,
        repeatable=config.rl.staleness == 0,
        engine=config.rl.engine,
        vllm=VllmSettings(**config.rl.vllm.model_dump()),
    )


def _context(model: str) -> int:
    from transformers import AutoConfig

    from rlrp.lm.load import resolve_model

    return int(getattr(AutoConfig.from_pretrained(resolve_model(model)), "max_position_embeddings", 1 << 30))


def _device(worker: WorkerConfig) -> str:
    return "cuda" if worker.gpus > 0 else "cpu"


def _threads(worker: WorkerConfig) -> int:
    return worker.threads or max(1, (os.cpu_count() or 1) // worker.actors)

"""Reinforcement learning from the SFT checkpoint: rollouts, judgements and updates on Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
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
from rlrp.runtime.loop import LoopSettings, train
from rlrp.runtime.records import RunLog
from rlrp.runtime.totals import DriverTotals
from rlrp.runtime.trackers import Trackers
from rlrp.runtime.workers import RolloutSettings
from rlrp.stages.sft import lora_settings


class PromptOrder:
    """Which prompts a step uses: every user prompt once per epoch, each time before another training character.

    A function of the seed and the step alone, so a resumed run goes on where it was.
    """

    def __init__(
        self,
        chat: ChatFormat,
        cards: dict[str, CharacterCard],
        prompts: Sequence[UserPrompt],
        *,
        per_step: int,
        seed: int,
    ):
        self.chat, self.cards, self.prompts = chat, cards, list(prompts)
        self.slugs = sorted(cards)
        self.per_step, self.seed = per_step, seed

    def __call__(self, step: int) -> list[Prompt]:
        return [self._prompt(step * self.per_step + i) for i in range(self.per_step)]

    def _prompt(self, draw: int) -> Prompt:
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


def check_context(prompts: PromptOrder, steps: int, max_new_tokens: int, context: int) -> None:
    """Refuse, before anything starts, a prompt that leaves no room for its reply."""
    for step in range(min(steps, len(prompts.prompts))):
        for prompt in prompts(step):
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
    found = checkpoints.latest_checkpoint(run, settings=settings)
    start = int(found[1]["step"]) if found else 0
    if found and start >= rl.steps:
        return found[0]
    tokenizer = load_tokenizer(model, chat_template=config.chat_template)
    order = PromptOrder(ChatFormat(tokenizer), cards, prompts, per_step=rl.prompts, seed=config.seed)
    check_context(order, rl.steps, rl.max_new_tokens, _context(model))
    cluster.connect()
    log = RunLog(run, start, show, open_trackers(config, start))
    try:
        general = general_pairs(config, ChatFormat(tokenizer))
        learner = cluster.RemoteLearner(learner_settings(config, model, general), _placement(config.cluster.learner))
        rollouts = cluster.Rollouts(
            _rollout_settings(config, model), _placement(config.cluster.rollout), config.cluster.max_restarts
        )
        judges = cluster.Judges(
            build_reward,
            _placement(config.cluster.reward),
            config.cluster.max_restarts,
            _threads(config.cluster.reward),
        )
        if found:
            learner.load(str(found[0].absolute()))
            totals.load_state(found[1].get("totals", {}))
        save = partial(_checkpoint, run.absolute(), learner, totals, settings, reward_hash, rl.keep_checkpoints)
        judged = DriverTotals(judges, totals)
        train(loop_settings(config), order, rollouts, judged, learner, log, save, start)
    finally:
        log.close()
        cluster.disconnect()
    return run / "checkpoints" / "last"


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


def loop_settings(config: Config) -> LoopSettings:
    rl = config.rl
    sampling = SamplingSettings(max_new_tokens=rl.max_new_tokens, temperature=rl.temperature)
    # Merged and unmerged adapters round differently, in bfloat16 visibly so.
    gap = 0.01 if rl.dtype == "float32" else 0.25
    return LoopSettings(
        steps=rl.steps,
        group_size=rl.group_size,
        sampling=sampling,
        seed=config.seed,
        baseline=ALGORITHMS[rl.algorithm].baseline,
        advantage_scale=rl.advantage_scale,
        checkpoint_every=rl.checkpoint_every,
        max_logp_gap=gap,
    )


def _checkpoint(
    run: Path, learner: cluster.RemoteLearner, totals: Totals, settings: str, reward_hash: str, keep: int, step: int
) -> None:
    state = {"settings": settings, "reward": reward_hash, "totals": totals.state()}
    checkpoints.save_checkpoint(run, step, learner.save, state, keep=keep)


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


def _placement(worker: WorkerConfig) -> cluster.Placement:
    return cluster.Placement(worker.actors, worker.cpus, worker.gpus, worker.memory_gb)


def _device(worker: WorkerConfig) -> str:
    return "cuda" if worker.gpus > 0 else "cpu"


def _threads(worker: WorkerConfig) -> int:
    return worker.threads or max(1, (os.cpu_count() or 1) // worker.actors)

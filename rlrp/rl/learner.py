"""The learner: a LoRA policy, its anchor (the same model with the adapter off) and one optimizer step per batch.

Left out here: a critic (baselines come from the rewards) and several updates per batch.
Shapes: B completions, S tokens of all completions of a micro-batch end to end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlrp.algorithms import Aggregate, Ratio, Surrogate
from rlrp.errors import RunStopped
from rlrp.lm.adapters import AdapterState, LoraSettings
from rlrp.lm.scoring import TokenGroup, micro_batches, token_logprobs
from rlrp.rl.anchor import drawn, general_kl
from rlrp.rl.engines import TorchEngine
from rlrp.rl.kl import Estimator, KlController, kl_estimate
from rlrp.rl.losses import LOSSES, token_weights
from rlrp.rl.policy import Policy


class TrainingDiverged(RunStopped):
    """The run must stop: numbers are wrong in a way that more steps will not mend."""


@dataclass(frozen=True)
class LearnerSettings:
    model: str
    chat_template: str | None = None
    lora: LoraSettings = field(default_factory=LoraSettings)
    seed: int = 0
    learning_rate: float = 3e-4
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    aggregate: Aggregate = "grpo"
    surrogate: Surrogate = "clip"
    ratio: Ratio = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    temperature: float = 1.0
    max_new_tokens: int = 64
    token_budget: int = 2048
    share_prefix: bool = True
    kl_coef: float = 0.0
    kl_target: float | None = None
    kl_gain: float = 0.1
    kl_min_coef: float = 1e-4
    kl_estimator: Estimator = "k3_unbiased"
    general: tuple[TokenGroup, ...] = ()
    general_pairs: int = 0
    general_coef: float = 1.0
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None

    @property
    def first_step_tolerance(self) -> float:
        """How far sampler and learner may differ (mean, nats), and how large the KL may be, before the first update."""
        return 1e-3 if self.dtype == "float32" else 5e-2


@dataclass(frozen=True)
class TrainGroup:
    """A prompt and its completions with the sampler's log-probabilities and the advantages."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    logps: tuple[tuple[float, ...], ...]
    advantages: tuple[float, ...]


@dataclass
class StepReport:
    """What one step did: numbers for the log, and per completion (in input order) its KL to the anchor."""

    metrics: dict[str, float]
    kl: list[list[float]] = field(default_factory=list)


class Learner:
    """Holds the policy and moves it. A plain class: Ray wraps it elsewhere."""

    def __init__(self, settings: LearnerSettings):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings = settings
        self.policy = Policy(
            settings.model,
            lora=settings.lora,
            chat_template=settings.chat_template,
            share_prefix=settings.share_prefix,
            seed=settings.seed,
            dtype=settings.dtype,
            device=settings.device,
        )
        self.engine = TorchEngine(self.policy.parameters, settings.learning_rate)
        # Without a coefficient there is no reference forward and so no KL to steer by.
        target = settings.kl_target if settings.kl_coef > 0 else None
        self.kl = KlController(settings.kl_coef, target, settings.kl_gain, floor=settings.kl_min_coef)
        self.updates = 0
        self.skipped_in_a_row = 0

    def step(self, groups: Sequence[TrainGroup]) -> StepReport:
        """One update on the groups; the loss is weighted over the whole batch, however it is split."""
        with _repeatable():
            return self._step(groups)

    def _step(self, groups: Sequence[TrainGroup]) -> StepReport:
        settings = self.settings
        # Dropout, if any, is a function of seed and step, so that a resumed run repeats it.
        torch.manual_seed(settings.seed * 1_000_003 + self.updates)
        lengths = torch.tensor([len(c) for g in groups for c in g.completions])
        if int(lengths.sum()) == 0:
            raise TrainingDiverged("every completion of the batch is empty")
        weights = token_weights(lengths, settings.aggregate, max_tokens=settings.max_new_tokens).split(lengths.tolist())
        first = [sum(len(g.completions) for g in groups[:i]) for i in range(len(groups))]
        tally = _Tally([[0.0] * len(g.completions) for g in groups])
        self.engine.learning_rate = settings.learning_rate * min(
            1.0, (self.updates + 1) / max(1, settings.warmup_steps)
        )
        token_groups = [TokenGroup(g.prompt, g.completions) for g in groups]
        for pack, places in micro_batches(token_groups, settings.token_budget, share_prefix=self.policy.share_prefix):
            weight = torch.cat([weights[first[g] + c] for g, c in places])
            self._micro_step(pack, places, groups, weight, tally)
        self._anchor_general(tally)
        if self.updates == 0:
            self._check_first_step(tally)
        grad_norm, updated = self._update(tally.loss)
        kl = tally.mean("kl")
        metrics = tally.metrics() | {
            "grad_norm": grad_norm,
            "learning_rate": self.engine.learning_rate,
            "kl_coef": self.kl.coef,
            "skipped_in_a_row": float(self.skipped_in_a_row),
        }
        if updated:
            self.kl.update(kl)
        return StepReport(metrics, tally.kl)

    def _micro_step(
        self,
        pack: list[TokenGroup],
        places: list[tuple[int, int]],
        groups: Sequence[TrainGroup],
        weight: Tensor,
        tally: _Tally,
    ) -> None:
        settings = self.settings
        device = self.policy.device
        counts = [len(groups[g].completions[c]) for g, c in places]
        if not any(counts):
            return  # empty completions alone: nothing to learn from
        old = torch.tensor([x for g, c in places for x in groups[g].logps[c]], device=device)
        advantage = torch.tensor([groups[g].advantages[c] for g, c in places]).repeat_interleave(torch.tensor(counts))
        reference = self._reference(pack) if settings.kl_coef > 0 else None
        logp = token_logprobs(self.policy.model, pack, temperature=settings.temperature).logp
        kl = None
        if reference is not None:
            kl = kl_estimate(logp, reference, settings.kl_estimator, old_logp=old)
            value = kl_estimate(logp.detach(), reference, "k3")
            for (g, c), part in zip(places, value.split(counts), strict=True):
                tally.kl[g][c] = float(part.mean()) if len(part) else 0.0
            tally.add("kl", value)
        out = LOSSES[settings.surrogate](
            logp,
            old,
            advantage.to(device),
            weight.to(device),
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            kl_S=kl,
            kl_coef=self.kl.coef,
            ratio=settings.ratio,
            lengths=torch.tensor(counts),
        )
        self.engine.backward(out.loss)
        tally.loss += float(out.loss.detach())
        tally.add("ratio", out.ratio)
        tally.add("clip_fraction", out.clipped.float())
        tally.add("logp_gap", (logp.detach() - old).abs())
        tally.add("entropy", -logp.detach())

    def _anchor_general(self, tally: _Tally) -> None:
        """Add the gradient of the anchor on general text: the mean KL over the step's pairs."""
        settings = self.settings
        if not settings.general_pairs or not settings.general:
            return
        pairs = drawn(settings.general, settings.general_pairs, seed=settings.seed, step=self.updates)
        tokens = sum(pair.scored_tokens for pair in pairs)
        for pack, _ in micro_batches(pairs, settings.token_budget, share_prefix=self.policy.share_prefix):
            kl = general_kl(self.policy.model, pack)
            loss = settings.general_coef * kl.sum() / tokens
            self.engine.backward(loss)
            tally.loss += float(loss.detach())
            tally.add("general_kl", kl.detach())

    def _reference(self, pack: list[TokenGroup]) -> Tensor:
        with self.policy.anchor() as model:
            return token_logprobs(model, pack, temperature=self.settings.temperature).logp

    def _check_first_step(self, tally: _Tally) -> None:
        """Before the first update policy, sampler and anchor are one model; if they are not, nothing else matters."""
        tolerance = self.settings.first_step_tolerance
        for name, meaning in (
            ("logp_gap", "sampler and learner disagree on log-probabilities"),
            ("kl", "the KL to the anchor is not 0 before the first update"),
        ):
            if tally.mean(name) > tolerance:
                raise TrainingDiverged(f"{meaning}: {tally.mean(name):.2g} nats a token, expected below {tolerance:g}")

    def _update(self, loss: float) -> tuple[float, bool]:
        """Step, unless numbers are not finite; the gradient's norm, and whether it did."""
        grad_norm, updated = self.engine.step(self.settings.max_grad_norm, finite=math.isfinite(loss))
        self.skipped_in_a_row = 0 if updated else self.skipped_in_a_row + 1
        self.updates += 1
        if self.skipped_in_a_row >= 3:
            raise TrainingDiverged("three losses in a row were not finite; the last checkpoint is from before them")
        return grad_norm, updated

    def weights(self) -> tuple[AdapterState, str]:
        """The policy's weights as samplers take them, and their checksum."""
        return self.policy.weights()

    def save(self, folder: str | Path) -> None:
        """Weights, tokenizer and training state: what ``load`` needs for the same bits, without pickle."""
        folder = Path(folder)
        self.policy.save(folder)
        save_file(self.engine.state(), folder / "optimizer.safetensors")
        state = {"updates": self.updates, "skipped_in_a_row": self.skipped_in_a_row, "kl": self.kl.state()}
        (folder / "learner.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: str | Path) -> None:
        """Continue from ``save``'s folder."""
        folder = Path(folder)
        self.policy.load(folder)
        self.engine.load_state(load_file(folder / "optimizer.safetensors"))
        state = json.loads((folder / "learner.json").read_text(encoding="utf-8"))
        self.updates, self.skipped_in_a_row = int(state["updates"]), int(state["skipped_in_a_row"])
        self.kl.load(state["kl"])


@contextmanager
def _repeatable() -> Iterator[None]:
    """Gradients that are the same bits every time: by default the backward of indexing, where an index occurs twice,
    adds in the order in which threads arrive. Operations that know no such order only warn."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filling = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warn)
        memory.fill_uninitialized_memory = filling


class _Tally:
    """Sums over micro-batches, so that what is logged does not depend on the split."""

    def __init__(self, kl: list[list[float]]):
        self.loss = 0.0
        self.kl = kl
        self.sums: dict[str, tuple[float, int, float, float]] = {}

    def add(self, name: str, values: Tensor) -> None:
        if values.numel():
            total, count, low, high = self.sums.get(name, (0.0, 0, float("inf"), float("-inf")))
            self.sums[name] = (
                total + float(values.double().sum()),
                count + values.numel(),
                min(low, float(values.min())),
                max(high, float(values.max())),
            )

    def mean(self, name: str) -> float:
        total, count, *_ = self.sums.get(name, (0.0, 0))
        return total / count if count else 0.0

    def metrics(self) -> dict[str, Any]:
        out: dict[str, Any] = {"loss": self.loss}
        for name, (_, count, low, high) in self.sums.items():
            out[name] = self.mean(name)
            if name in ("ratio", "logp_gap"):
                out[f"{name}_min"], out[f"{name}_max"] = low, high
            if name == "ratio":
                out["reply_tokens_total"] = float(count)
        return out

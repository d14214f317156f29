"""The learner: a policy, its anchor, for PPO a critic, and a step's updates, alone or as one of a team of workers.

Every worker of a team is given the whole batch and takes its share; what they report is that of the whole. All run the
models equally often: who has less to do than others is idle with them.

A step looks at its whole batch first (the anchor's log-probabilities, the critic's values), makes advantages where that
takes what it saw, and then goes over the batch in updates, each over micro-batches.
Shapes: B completions, S tokens that the policy said in all completions of a micro-batch, end to end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlrp.algorithms import Aggregate, Baseline, KlPlace, Ratio, Scale, Surrogate
from rlrp.lm.adapters import AdapterState, LoraSettings
from rlrp.lm.load import load_model
from rlrp.lm.scoring import TokenGroup, completion_hidden, output_head, project
from rlrp.rl.advantages import whiten
from rlrp.rl.anchor import drawn, general_kl
from rlrp.rl.batch import IDLE_PACK, Batch, Pack, TrainGroup
from rlrp.rl.correction import CorrectionSettings, sampler_weights
from rlrp.rl.critic import NAME as CRITIC
from rlrp.rl.critic import Critic, CriticSettings
from rlrp.rl.engines import Engine, TorchEngine
from rlrp.rl.experience import payments, penalised_advantages, reward_to_go
from rlrp.rl.full_kl import full_kl
from rlrp.rl.kl import Estimator, KlController, kl_estimate, token_rewards
from rlrp.rl.losses import LOSSES, token_weights
from rlrp.rl.order import minibatches
from rlrp.rl.policy import Policy
from rlrp.rl.ppo import explained_variance, gae, value_loss
from rlrp.rl.shares import shares
from rlrp.rl.tally import Tally
from rlrp.rl.team import Team
from rlrp.rl.trained import IDLE, Trained
from rlrp.rl.zero import ZeroEngine, ZeroSettings

__all__ = ["Learner", "LearnerSettings", "StepReport", "TrainGroup", "TrainingDiverged"]


class TrainingDiverged(RuntimeError):
    """The run must stop: numbers are wrong in a way that more steps will not mend."""


@dataclass(frozen=True)
class LearnerSettings:
    model: str
    chat_template: str | None = None
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    """None trains all weights."""
    seed: int = 0
    learning_rate: float = 3e-4
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    epochs: int = 1
    minibatches: int = 1
    aggregate: Aggregate = "grpo"
    surrogate: Surrogate = "clip"
    ratio: Ratio = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    baseline: Baseline = "group"
    advantage_scale: Scale = "group"
    """With the baseline: for advantages that are made here."""
    critic: CriticSettings | None = None
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    temperature: float = 1.0
    max_new_tokens: int = 64
    token_budget: int = 2048
    share_prefix: bool = True
    kl_place: KlPlace = "loss"
    kl_coef: float = 0.0
    kl_target: float | None = None
    kl_gain: float = 0.1
    kl_min_coef: float = 1e-4
    kl_estimator: Estimator | Literal["full"] = "k3_unbiased"
    general: tuple[TokenGroup, ...] = ()
    general_pairs: int = 0
    general_coef: float = 1.0
    gradient_checkpointing: bool = False
    zero: ZeroSettings | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None

    @property
    def parts_weights(self) -> bool:
        return self.zero is not None and self.zero.stage == 3

    @property
    def needs_anchor(self) -> bool:
        return self.kl_coef > 0 or self.general_pairs > 0

    @property
    def first_step_tolerance(self) -> float:
        """How far sampler and learner may differ (mean, nats), and how large the KL may be, before the first update."""
        return 1e-3 if self.dtype == "float32" else 5e-2

    @property
    def updates_per_step(self) -> int:
        return self.epochs * self.minibatches

    @property
    def kl_in_reward(self) -> bool:
        return self.kl_coef > 0 and self.kl_place == "reward"

    @property
    def whole_kl(self) -> bool:
        """Whether the KL in the loss is of the whole vocabulary."""
        return self.kl_coef > 0 and self.kl_place == "loss" and self.kl_estimator == "full"


@dataclass
class StepReport:
    """What one step did: numbers for the log, and per completion (in input order) its KL to the anchor."""

    metrics: dict[str, float]
    kl: list[list[float]] = field(default_factory=list)
    advantages: list[list[float]] = field(default_factory=list)
    """Mean over each completion's tokens, where advantages were made here; else empty."""


class Learner:
    """Holds the policy and moves it. A plain class: Ray wraps it elsewhere."""

    def __init__(self, settings: LearnerSettings, team: Team | None = None):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings, self.team = settings, team or Team()
        lm = load_model(
            settings.model,
            chat_template=settings.chat_template,
            dtype=getattr(torch, settings.dtype),
            # Parted, the weights need never all be on the device.
            device="cpu" if settings.parts_weights else settings.device,
        )
        self.policy = Policy(
            lm,
            lora=settings.lora,
            seed=settings.seed,
            share_prefix=settings.share_prefix,
            anchor=settings.needs_anchor,
            checkpointing=settings.gradient_checkpointing,
        )
        self.critic: Critic | None = None
        if settings.critic:
            self.critic = Critic(
                settings.critic,
                self.policy,
                dtype=settings.dtype,
                seed=settings.seed,
                chat_template=settings.chat_template,
            )
            with self.critic.active():
                self.critic_engine = self._engine(self.critic, settings.critic.learning_rate)
        self.engine = self._engine(self.policy, settings.learning_rate)
        # Without a coefficient there is no reference forward and so no KL to steer by.
        target = settings.kl_target if settings.kl_coef > 0 else None
        self.kl = KlController(settings.kl_coef, target, settings.kl_gain, floor=settings.kl_min_coef)
        self.steps = 0
        self.updates = 0
        """Of the policy."""
        self.skipped_in_a_row = 0

    def _engine(self, trained: Trained, learning_rate: float) -> Engine:
        settings = self.settings
        if settings.zero is None:
            return TorchEngine(trained.parameters, learning_rate)
        return ZeroEngine(trained, settings.zero, self.team, learning_rate, settings.device)

    @property
    def policy_learns(self) -> bool:
        """False in the critic's first steps, which leave the policy as it is."""
        return self.settings.critic is None or self.steps >= self.settings.critic.warmup_steps

    def step(self, groups: Sequence[TrainGroup]) -> StepReport:
        """One step on the groups; each update's loss is weighted over all of its groups, however they are split."""
        with _repeatable():
            return self._step(groups)

    def _step(self, groups: Sequence[TrainGroup]) -> StepReport:
        settings = self.settings
        # Dropout, if any, is a function of seed, step and worker, so that a resumed run repeats it.
        torch.manual_seed(settings.seed * 1_000_003 + self.steps + 7_919 * self.team.rank)
        batch, tally = Batch(groups), Tally()
        if not batch.lengths.any():
            raise TrainingDiverged("every completion of the batch is empty")
        learnt = self.steps - (settings.critic.warmup_steps if settings.critic else 0)
        self.engine.learning_rate = settings.learning_rate * min(1.0, (learnt + 1) / max(1, settings.warmup_steps))
        self._look(batch)
        self._credit(batch, tally)
        updated = False
        for epoch in range(settings.epochs):
            parts = minibatches(len(groups), settings.minibatches, seed=settings.seed, step=self.steps, epoch=epoch)
            for members in parts:
                updated |= self._update(batch, members, tally, epoch)
        tally = Tally.merged(self.team.gather(tally))
        batch.kl = [sum(parts) for parts in zip(*self.team.gather(batch.kl), strict=True)]
        metrics = tally.metrics() | {
            "reply_tokens_total": float(batch.lengths.sum()),
            "kl_coef": self.kl.coef,
            "skipped_in_a_row": float(self.skipped_in_a_row),
        }
        if self.policy_learns:
            metrics["learning_rate"] = self.engine.learning_rate
            if updated:
                self.kl.update(tally.mean("kl"))
        self.steps += 1
        return StepReport(metrics, batch.by_group(batch.kl), batch.by_group(batch.mean_advantage))

    # -- before the first update -------------------------------------------------------------------------------

    @torch.no_grad()
    def _look(self, batch: Batch) -> None:
        """What must be known of the batch before anything moves: the anchor's log-probabilities, the critic's values,
        and, where several updates are corrected for the sampler, the policy's own log-probabilities."""
        settings = self.settings
        reference = settings.kl_coef > 0 and not settings.whole_kl
        proximal = settings.correction.kind != "none" and settings.updates_per_step > 1
        models = [self.policy.model] + ([self.critic.model] if self.critic else [])
        for model in models:
            model.eval()
        for pack in self._packs(batch, range(len(batch.groups))):
            if reference:
                pack.keep(batch.reference, self.policy.with_anchor(self._logp_of(pack)))
            if proximal:
                pack.keep(batch.proximal, self.policy.with_policy(self._logp_of(pack)))
            if self.critic:
                with self.critic.active():
                    pack.keep(batch.value, pack.only_said(self.critic.values(pack.groups)))
        for model in models:
            model.train()
        for rows in (batch.reference, batch.proximal, batch.value):
            # Of a team everyone has looked at a share.
            for found in self.team.gather([row if len(row) else None for row in rows]):
                rows[:] = [mine if theirs is None else theirs for mine, theirs in zip(rows, found, strict=True)]

    def _credit(self, batch: Batch, tally: Tally) -> None:
        """Advantages, where they take more than the driver knew."""
        settings, lengths = self.settings, batch.lengths
        if self.critic is None and not settings.kl_in_reward:
            return
        rewards, sampler_S, coef = batch.rewards(), torch.cat(batch.sampler), self.kl.coef
        reference_S = torch.cat(batch.reference) if settings.kl_in_reward else sampler_S
        reward_S = token_rewards(payments(rewards, lengths), sampler_S, reference_S, coef)
        if self.critic is not None:
            own, value_S = self.critic.settings, torch.cat(batch.value)
            advantage_S, return_S = gae(reward_S, value_S, lengths, gamma=own.gamma, lam=own.lam)
            if settings.advantage_scale == "whiten":
                advantage_S = whiten(advantage_S)
            batch.returns = batch.per_row(return_S)
            self._note(tally, value=value_S, **{"return": return_S})
            if not math.isnan(explained := explained_variance(value_S, return_S)):
                self._note(tally, explained_variance=torch.tensor([explained]))
        elif settings.baseline == "none":
            advantage_S = reward_to_go(reward_S, lengths)
        else:
            advantage_S = penalised_advantages(
                rewards,
                sampler_S,
                reference_S,
                lengths,
                coef,
                prompts=len(batch.groups),
                baseline=settings.baseline,
                scale=settings.advantage_scale,
                characters=[group.character for group in batch.groups],
            )
        batch.advantage = batch.per_row(advantage_S)
        batch.mean_advantage = [float(row.mean()) if len(row) else 0.0 for row in batch.advantage]

    # -- an update ---------------------------------------------------------------------------------------------

    def _update(self, batch: Batch, members: Sequence[int], tally: Tally, epoch: int) -> bool:
        """One update on the groups ``members``; whether anything moved."""
        settings = self.settings
        rows = [row for member in members for row in batch.rows_of(member)]
        counts = batch.lengths[rows]
        if not counts.any():
            return False
        weights = token_weights(counts, settings.aggregate, max_tokens=settings.max_new_tokens)
        weight = dict(zip(rows, weights.split(counts.tolist()), strict=True))
        loss = value = 0.0
        for pack in self._packs(batch, members):
            loss += self._policy_gradient(batch, pack, weight, tally, epoch)
            value += self._critic_gradient(batch, pack, weight, tally)
        if self.policy_learns:
            loss += self._anchor_general(tally)
        loss, value = (sum(parts) for parts in zip(*self.team.gather((loss, value)), strict=True))
        if self.updates == 0:
            self._check_first_step(Tally.merged(self.team.gather(tally)))
        self._note(tally, loss=torch.tensor([loss]))
        batch.updates += 1
        return self._move(loss, value, tally)

    def _policy_gradient(
        self, batch: Batch, pack: Pack, weight: Mapping[int, Tensor], tally: Tally, epoch: int
    ) -> float:
        """Add the gradient of the policy's loss on a pack; the loss."""
        settings, device = self.settings, self.policy.device
        sampler = pack.of(batch.sampler, device)
        with torch.set_grad_enabled(self.policy_learns):
            logp, whole_kl = self._forward(pack)
            if pack is IDLE_PACK:
                return self._idle_gradient(logp, whole_kl)
            old, correction = self._corrected(batch, pack, logp, sampler, tally, epoch)
            out = LOSSES[settings.surrogate](
                logp,
                old,
                pack.of(batch.advantage, device),
                pack.of(weight, device),
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                kl_S=self._kl_terms(batch, pack, whole_kl, logp, old, tally, epoch),
                kl_coef=self.kl.coef,
                ratio=settings.ratio,
                lengths=pack.lengths,
                correction_S=correction,
            )
        if self.policy_learns:
            self.engine.backward(out.loss)
        tally.add("ratio", out.ratio)
        tally.add("clip_fraction", out.clipped.float())
        tally.add("entropy", -logp)
        if batch.updates == 0:  # later ones have moved away from the sampler, and should
            tally.add("logp_gap", (logp.detach() - sampler).abs())
        return float(out.loss.detach())

    def _forward(self, pack: Pack) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities [S] of the pack's tokens and, where the loss has it, the KL [S] of the whole vocabulary."""
        if not self.settings.whole_kl:
            return self.policy.with_policy(self._logp_of(pack)), None
        before = self.policy.with_anchor(lambda model: self._hidden(model, pack))

        def both(model: Any, anchor: Any) -> tuple[Tensor, Tensor]:
            hidden, (head, cap) = self._hidden(model, pack), output_head(model)
            kl = full_kl(
                hidden,
                before,
                head,
                cap,
                temperature=self.settings.temperature,
                reference_head=output_head(anchor)[0],
            )
            return self._logp(model, hidden, pack), kl

        return self.policy.with_both(both)

    def _idle_gradient(self, logp: Tensor, whole_kl: Tensor | None) -> float:
        if self.policy_learns:
            self.engine.backward((logp.sum() + (0.0 if whole_kl is None else whole_kl.sum())) * 0.0)
        return 0.0

    def _corrected(
        self, batch: Batch, pack: Pack, logp: Tensor, sampler: Tensor, tally: Tally, epoch: int
    ) -> tuple[Tensor, Tensor | None]:
        """The log-probabilities that the ratio is against, and the surrogate's weights if it is corrected."""
        how = self.settings.correction
        if how.kind == "none":
            return sampler, None
        one = self.settings.updates_per_step == 1
        proximal = logp.detach() if one else pack.of(batch.proximal, self.policy.device)
        weights = sampler_weights(
            proximal, sampler, pack.lengths, kind=how.kind, level=how.level, cap=how.cap, floor=how.floor
        )
        if epoch == 0:
            tally.add("sampler_ratio", weights.raw_S)
            tally.add("corrected", weights.corrected_S.float())
        return proximal, weights.weight_S

    def _kl_terms(
        self,
        batch: Batch,
        pack: Pack,
        whole_kl: Tensor | None,
        logp: Tensor,
        old: Tensor,
        tally: Tally,
        epoch: int,
    ) -> Tensor | None:
        """The KL at every token for the loss, None if it has no place there; its value is logged either way."""
        settings = self.settings
        if settings.kl_coef == 0:
            return None
        if whole_kl is not None:
            kl, value = whole_kl, whole_kl.detach()
        else:
            reference = pack.of(batch.reference, self.policy.device)
            value = kl_estimate(logp.detach(), reference, "k3")
            kl = kl_estimate(logp, reference, settings.kl_estimator, old_logp=old)  # type: ignore[arg-type]
        if epoch == 0:
            tally.add("kl", value)
            for row, part in pack.split(value):
                batch.kl[row] = float(part.mean()) if len(part) else 0.0
        return None if settings.kl_in_reward else kl

    def _critic_gradient(self, batch: Batch, pack: Pack, weight: Mapping[int, Tensor], tally: Tally) -> float:
        """Add the gradient of the critic's loss on a pack; the loss."""
        if self.critic is None:
            return 0.0
        device = self.policy.device
        with self.critic.active():
            value_S = pack.only_said(self.critic.values(pack.groups))
            if pack is IDLE_PACK:
                self.critic_engine.backward(value_S.sum() * 0.0)
                return 0.0
            out = value_loss(
                value_S,
                pack.of(batch.value, device),
                pack.of(batch.returns, device),
                pack.of(weight, device),
                clip=self.critic.settings.value_clip,
            )
            self.critic_engine.backward(out.loss)
        tally.add("value_clip_fraction", out.clipped.float())
        return float(out.loss.detach())

    def _anchor_general(self, tally: Tally) -> float:
        """Add the gradient of the anchor on general text, the mean KL over the update's pairs; the loss."""
        settings = self.settings
        if not settings.general_pairs or not settings.general:
            return 0.0
        pairs = drawn(settings.general, settings.general_pairs, seed=settings.seed, step=self.updates)
        tokens = sum(pair.scored_tokens for pair in pairs)
        total, everyones = 0.0, shares(pairs, self.team.size, self._token_budget, share_prefix=self.policy.share_prefix)
        own = everyones[self.team.rank]
        for micro_batch in own:
            kl = general_kl(self.policy, micro_batch.groups)
            loss = settings.general_coef * kl.sum() / tokens
            self.engine.backward(loss)
            total += float(loss.detach())
            tally.add("general_kl", kl)
        for _ in range(max(map(len, everyones)) - len(own)):
            self.engine.backward(general_kl(self.policy, IDLE).sum() * 0.0)
        return total

    def _note(self, tally: Tally, **whole: Tensor) -> None:
        """What all workers know of the whole batch is counted once."""
        if self.team.leads:
            for name, values in whole.items():
                tally.add(name, values)

    def _check_first_step(self, tally: Tally) -> None:
        """Before the first update policy, sampler and anchor are one model; if they are not, nothing else matters."""
        tolerance = self.settings.first_step_tolerance
        for name, meaning in (
            ("logp_gap", "sampler and learner disagree on log-probabilities"),
            ("kl", "the KL to the anchor is not 0 before the first update"),
        ):
            if tally.mean(name) > tolerance:
                raise TrainingDiverged(f"{meaning}: {tally.mean(name):.2g} nats a token, expected below {tolerance:g}")

    def _move(self, loss: float, value: float, tally: Tally) -> bool:
        """Move policy and critic, unless numbers are not finite; whether they did."""
        finite, clip = math.isfinite(loss) and math.isfinite(value), self.settings.max_grad_norm
        moved = True
        if self.policy_learns:
            norm, moved = self.engine.step(clip, finite=finite)
            self._note(tally, grad_norm=torch.tensor([norm]))
            self.updates += 1
        if self.critic is not None:
            norm, critic_moved = self.critic_engine.step(clip, finite=finite)
            self._note(tally, critic_grad_norm=torch.tensor([norm]), value_loss=torch.tensor([value]))
            moved = moved and critic_moved
        self.skipped_in_a_row = 0 if moved else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= 3:
            raise TrainingDiverged("three losses in a row were not finite; the last checkpoint is from before them")
        return moved

    # -- the models on a pack ----------------------------------------------------------------------------------

    @property
    def _token_budget(self) -> int:
        # Without sharing, a micro-batch runs the model once per completion; with parted weights all run it as often.
        alone = self.settings.parts_weights and not self.policy.share_prefix
        return 1 if alone else self.settings.token_budget

    def _packs(self, batch: Batch, members: Sequence[int]) -> list[Pack]:
        """This worker's packs, and idle ones until it has as many as the others."""
        everyones = batch.packs(
            members, self._token_budget, share_prefix=self.policy.share_prefix, workers=self.team.size
        )
        own = everyones[self.team.rank]
        return own + [IDLE_PACK] * (max(map(len, everyones)) - len(own))

    def _hidden(self, model: Any, pack: Pack) -> Tensor:
        """The last hidden states [S, C] from which the pack's tokens are predicted."""
        return pack.only_said(completion_hidden(model, pack.groups))

    def _logp_of(self, pack: Pack) -> Callable[[Any], Tensor]:
        return lambda model: self._logp(model, self._hidden(model, pack), pack)

    def _logp(self, model: Any, hidden_SC: Tensor, pack: Pack) -> Tensor:
        """Log-probabilities [S] of the pack's tokens at the sampling temperature."""
        head, cap = output_head(model)
        targets = torch.tensor([t for g in pack.groups for c in g.completions for t in c], device=hidden_SC.device)
        targets_S = pack.only_said(targets)
        scores = project(hidden_SC, head, targets_S, temperature=self.settings.temperature, entropy=False, softcap=cap)
        return scores.logp

    # -- weights and checkpoints -------------------------------------------------------------------------------

    def weights(self) -> tuple[AdapterState | None, str]:
        """The policy's weights as samplers take them, and their checksum; of a team the first worker has them."""
        return self.policy.weights(self.engine.whole, keep=self.team.leads)

    def save(self, folder: str | Path) -> None:
        """Weights, tokenizer and training state: what ``load`` needs for the same bits, without pickle."""
        folder, leads = Path(folder), self.team.leads
        self.policy.save(folder, self.engine.whole, keep=leads)
        moments = {folder: self.engine.state(keep=leads)}
        if self.critic:
            self.critic.save(folder, self.critic_engine.whole, keep=leads)
            moments[folder / CRITIC] = self.critic_engine.state(keep=leads)
        if leads:
            for place, state in moments.items():
                save_file(state, place / "optimizer.safetensors")
            (folder / "learner.json").write_text(json.dumps(self._counts(), indent=2) + "\n", encoding="utf-8")
        self.team.gather(None)  # when any of them returns, all is written

    def _counts(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "updates": self.updates,
            "skipped_in_a_row": self.skipped_in_a_row,
            "kl": self.kl.state(),
        }

    def load(self, folder: str | Path) -> None:
        """Continue from ``save``'s folder, whatever the number of workers then and now."""
        folder = Path(folder)
        self.policy.load(folder, self.engine.whole)
        self.engine.load_state(load_file(folder / "optimizer.safetensors"))
        if self.critic:
            with self.critic.active():
                self.critic.load(folder, self.critic_engine.whole)
                self.critic_engine.load_state(load_file(folder / CRITIC / "optimizer.safetensors"))
        state = json.loads((folder / "learner.json").read_text(encoding="utf-8"))
        self.steps, self.updates = int(state["steps"]), int(state["updates"])
        self.skipped_in_a_row = int(state["skipped_in_a_row"])
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

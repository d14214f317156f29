"""The learner: a policy, its anchor, for PPO a critic, and what a step does with them.

A step looks at its whole batch first (the anchor's log-probabilities, the critic's values), makes advantages where that
takes what it saw, and then goes over the batch in updates, each over micro-batches (``gradients``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlrp.errors import RunStopped
from rlrp.lm.adapters import AdapterState
from rlrp.lm.load import load_model
from rlrp.rl.batch import Batch, TrainGroup
from rlrp.rl.critic import NAME as CRITIC
from rlrp.rl.critic import Critic
from rlrp.rl.engines import Engine, TorchEngine
from rlrp.rl.experience import credit
from rlrp.rl.gradients import Gradients, Update
from rlrp.rl.kl import KlController
from rlrp.rl.losses import token_weights
from rlrp.rl.order import minibatches
from rlrp.rl.policy import Policy
from rlrp.rl.repeatable import repeatable
from rlrp.rl.settings import LearnerSettings, StepReport
from rlrp.rl.tally import Tally
from rlrp.rl.team import Team
from rlrp.rl.trained import Trained
from rlrp.rl.zero import ZeroEngine, prepare

__all__ = ["Learner", "LearnerSettings", "StepReport", "TrainGroup", "TrainingDiverged"]


class TrainingDiverged(RunStopped):
    """The run must stop: numbers are wrong in a way that more steps will not mend."""


class Learner:
    """Holds the policy and moves it. A plain class: Ray wraps it elsewhere."""

    def __init__(self, settings: LearnerSettings, team: Team | None = None):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings, self.team = settings, team or Team()
        if settings.zero is not None:
            prepare(settings.device)  # what is missing is said before a model is loaded
        load = partial(
            load_model,
            settings.model,
            chat_template=settings.chat_template,
            dtype=getattr(torch, settings.dtype),
            # Parted, the weights need never all be on the device.
            device="cpu" if settings.parts_weights else settings.device,
        )
        self.policy = Policy(
            load(),
            lora=settings.lora,
            seed=settings.seed,
            share_prefix=settings.share_prefix,
            anchor=load() if settings.needs_anchor and settings.lora is None else None,
            checkpointing=settings.gradient_checkpointing,
        )
        self.critic: Critic | None = None
        self.critic_engine: Engine | None = None
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
        self.gradients = Gradients(settings, self.team, self.policy, self.engine, self.critic, self.critic_engine)
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
        with repeatable():
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
        self.gradients.look(batch)
        self._note(tally, **credit(batch, settings, self.kl.coef))
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

    def _update(self, batch: Batch, members: Sequence[int], tally: Tally, epoch: int) -> bool:
        """One update on the groups ``members``; whether anything moved."""
        settings = self.settings
        rows = [row for member in members for row in batch.rows_of(member)]
        counts = batch.lengths[rows]
        if not counts.any():
            return False
        weights = token_weights(counts, settings.aggregate, max_tokens=settings.max_new_tokens)
        weight = dict(zip(rows, weights.split(counts.tolist()), strict=True))
        update = Update(
            batch,
            weight,
            tally,
            kl_coef=self.kl.coef,
            number=self.updates,
            moves_policy=self.policy_learns,
            first_pass=epoch == 0,
        )
        parts = self.team.gather(self.gradients.add(update, members))
        loss, value = (sum(part) for part in zip(*parts, strict=True))
        if self.updates == 0:
            self._check_first_step(Tally.merged(self.team.gather(tally)))
        self._note(tally, loss=torch.tensor([loss]))
        batch.updates += 1
        return self._move(loss, value, tally)

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
        if self.critic_engine is not None:
            norm, critic_moved = self.critic_engine.step(clip, finite=finite)
            self._note(tally, critic_grad_norm=torch.tensor([norm]), value_loss=torch.tensor([value]))
            moved = moved and critic_moved
        self.skipped_in_a_row = 0 if moved else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= 3:
            raise TrainingDiverged("three losses in a row were not finite; the last checkpoint is from before them")
        return moved

    # -- weights and checkpoints -------------------------------------------------------------------------------

    def weights(self) -> tuple[AdapterState | None, str]:
        """The policy's weights as samplers take them, and their checksum; of a team the first worker has them."""
        return self.policy.weights(self.engine.whole, keep=self.team.leads)

    def save(self, folder: str | Path) -> None:
        """Weights, tokenizer and training state: what ``load`` needs for the same bits, without pickle."""
        folder, leads = Path(folder), self.team.leads
        self.policy.save(folder, self.engine.whole, keep=leads)
        moments = {folder: self.engine.state(keep=leads)}
        if self.critic and self.critic_engine:
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
        if self.critic and self.critic_engine:
            with self.critic.active():
                self.critic.load(folder, self.critic_engine.whole)
                self.critic_engine.load_state(load_file(folder / CRITIC / "optimizer.safetensors"))
        state = json.loads((folder / "learner.json").read_text(encoding="utf-8"))
        self.steps, self.updates = int(state["steps"]), int(state["updates"])
        self.skipped_in_a_row = int(state["skipped_in_a_row"])
        self.kl.load(state["kl"])

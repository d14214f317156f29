"""A worker's passes through the models: what is looked up of a batch before anything moves, and what updates add up.

Shapes: S tokens that the policy said in all completions of a pack, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlrp.lm.scoring import completion_hidden, output_head, project
from rlrp.rl.anchor import drawn, general_kl
from rlrp.rl.batch import IDLE_PACK, Batch, Pack
from rlrp.rl.correction import sampler_weights
from rlrp.rl.critic import Critic
from rlrp.rl.engines import Engine
from rlrp.rl.full_kl import full_kl
from rlrp.rl.kl import kl_estimate
from rlrp.rl.losses import LOSSES
from rlrp.rl.policy import Policy
from rlrp.rl.ppo import value_loss
from rlrp.rl.settings import LearnerSettings
from rlrp.rl.shares import shares
from rlrp.rl.tally import Tally
from rlrp.rl.team import Team
from rlrp.rl.trained import IDLE


@dataclass
class Update:
    """An update in the making: of what, and what is told of it."""

    batch: Batch
    weight: Mapping[int, Tensor]
    """Of each token of the rows that it is made of."""
    tally: Tally
    kl_coef: float
    number: int
    """How many the policy had before."""
    moves_policy: bool = True
    first_pass: bool = True
    """Whether its rows are seen for the first time: what is said of the batch is counted once."""


@dataclass
class Gradients:
    """The models and their engines; everything is this worker's share, and all workers run the models as often."""

    settings: LearnerSettings
    team: Team
    policy: Policy
    engine: Engine
    critic: Critic | None = None
    critic_engine: Engine | None = None

    @torch.no_grad()
    def look(self, batch: Batch) -> None:
        """What must be known of the batch before anything moves: the anchor's log-probabilities, the critic's values,
        and, where several updates are corrected for the sampler, the policy's own log-probabilities."""
        settings = self.settings
        reference = settings.kl_coef > 0 and not settings.whole_kl
        proximal = settings.correction.kind != "none" and settings.updates_per_step > 1
        models = [self.policy.model] + ([self.critic.model] if self.critic else [])
        for model in models:
            model.eval()
        for pack in self.packs(batch, range(len(batch.groups))):
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

    def add(self, update: Update, members: Sequence[int]) -> tuple[float, float]:
        """Add an update's gradients for the groups ``members``; this worker's part of the two losses."""
        loss = value = 0.0
        for pack in self.packs(update.batch, members):
            loss += self._add_policy(update, pack)
            value += self._add_critic(update, pack)
        if update.moves_policy:
            loss += self._add_general(update)
        return loss, value

    def _add_policy(self, update: Update, pack: Pack) -> float:
        settings, device, batch, tally = self.settings, self.policy.device, update.batch, update.tally
        with torch.set_grad_enabled(update.moves_policy):
            logp, whole_kl = self._forward(pack)
            if pack is IDLE_PACK:
                nothing = logp.sum() if whole_kl is None else logp.sum() + whole_kl.sum()
                return self._backward(update, nothing * 0.0)
            sampler = pack.of(batch.sampler, device)
            old, correction = self._corrected(update, pack, logp, sampler)
            out = LOSSES[settings.surrogate](
                logp,
                old,
                pack.of(batch.advantage, device),
                pack.of(update.weight, device),
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                kl_S=self._kl(update, pack, whole_kl, logp, old),
                kl_coef=update.kl_coef,
                ratio=settings.ratio,
                lengths=pack.lengths,
                correction_S=correction,
            )
        tally.add("ratio", out.ratio)
        tally.add("clip_fraction", out.clipped.float())
        tally.add("entropy", -logp.detach())
        if batch.updates == 0:  # later ones have moved away from the sampler, and should
            tally.add("logp_gap", (logp.detach() - sampler).abs())
        return self._backward(update, out.loss)

    def _backward(self, update: Update, loss: Tensor) -> float:
        if update.moves_policy:
            self.engine.backward(loss)
        return float(loss.detach())

    def _corrected(self, update: Update, pack: Pack, logp: Tensor, sampler: Tensor) -> tuple[Tensor, Tensor | None]:
        """The log-probabilities that the ratio is against, and the surrogate's weights if it is corrected."""
        how = self.settings.correction
        if how.kind == "none":
            return sampler, None
        alone = self.settings.updates_per_step == 1
        proximal = logp.detach() if alone else pack.of(update.batch.proximal, self.policy.device)
        weights = sampler_weights(
            proximal, sampler, pack.lengths, kind=how.kind, level=how.level, cap=how.cap, floor=how.floor
        )
        if update.first_pass:
            update.tally.add("sampler_ratio", weights.raw_S)
            update.tally.add("corrected", weights.corrected_S.float())
        return proximal, weights.weight_S

    def _kl(self, update: Update, pack: Pack, whole_kl: Tensor | None, logp: Tensor, old: Tensor) -> Tensor | None:
        """The KL at every token for the loss, None if it has no place there; its value is logged either way."""
        settings, batch = self.settings, update.batch
        if settings.kl_coef == 0:
            return None
        if whole_kl is not None:
            kl, value = whole_kl, whole_kl.detach()
        else:
            reference = pack.of(batch.reference, self.policy.device)
            value = kl_estimate(logp.detach(), reference, "k3")
            kl = kl_estimate(logp, reference, settings.kl_estimator, old_logp=old)  # type: ignore[arg-type]
        if update.first_pass:
            update.tally.add("kl", value)
            for row, part in pack.split(value):
                batch.kl[row] = float(part.mean()) if len(part) else 0.0
        return None if settings.kl_in_reward else kl

    def _add_critic(self, update: Update, pack: Pack) -> float:
        if self.critic is None or self.critic_engine is None:
            return 0.0
        device, batch = self.policy.device, update.batch
        with self.critic.active():
            value_S = pack.only_said(self.critic.values(pack.groups))
            if pack is IDLE_PACK:
                self.critic_engine.backward(value_S.sum() * 0.0)
                return 0.0
            out = value_loss(
                value_S,
                pack.of(batch.value, device),
                pack.of(batch.returns, device),
                pack.of(update.weight, device),
                clip=self.critic.settings.value_clip,
            )
            self.critic_engine.backward(out.loss)
        update.tally.add("value_clip_fraction", out.clipped.float())
        return float(out.loss.detach())

    def _add_general(self, update: Update) -> float:
        """The anchor on general text: the mean KL over the update's pairs."""
        settings = self.settings
        if not settings.general_pairs or not settings.general:
            return 0.0
        pairs = drawn(settings.general, settings.general_pairs, seed=settings.seed, step=update.number)
        tokens = sum(pair.scored_tokens for pair in pairs)
        total, everyones = 0.0, shares(pairs, self.team.size, self._token_budget, share_prefix=self.policy.share_prefix)
        own = everyones[self.team.rank]
        for micro_batch in own:
            kl = general_kl(self.policy, micro_batch.groups)
            loss = settings.general_coef * kl.sum() / tokens
            self.engine.backward(loss)
            total += float(loss.detach())
            update.tally.add("general_kl", kl.detach())
        for _ in range(max(map(len, everyones)) - len(own)):
            self.engine.backward(general_kl(self.policy, IDLE).sum() * 0.0)
        return total

    # -- the models on a pack ----------------------------------------------------------------------------------

    @property
    def _token_budget(self) -> int:
        # Without sharing, a micro-batch runs the model once per completion; with parted weights all run it as often.
        alone = self.settings.parts_weights and not self.policy.share_prefix
        return 1 if alone else self.settings.token_budget

    def packs(self, batch: Batch, members: Sequence[int]) -> list[Pack]:
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

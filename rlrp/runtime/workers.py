"""The rollout worker as a plain class: it runs in a test without Ray, and Ray wraps it in ``pool``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rlrp.lm.adapters import AdapterState
from rlrp.lm.engines import Engine, make_engine
from rlrp.lm.engines.ours import load_sampler
from rlrp.lm.engines.settings import EngineSettings
from rlrp.lm.sampling import Completion, Sampler, SampleRequest, SamplingSettings
from rlrp.runtime.episodes import Episodes, EpisodeSettings
from rlrp.runtime.users import ModelUser, Samples, Script, ScriptedUser, User, UserModel


@dataclass(frozen=True)
class RolloutSettings(EngineSettings):
    """What a rollout worker is told: its engine, and the episodes that it plays; without, a completion is one reply."""

    episodes: EpisodeSettings | None = None
    repeatable: bool = False
    """What is sampled, to the last bit, depends on the weights and the call alone, not on the prompts that the actor
    happens to have met before: what is kept of a prompt is kept within a call."""


class RolloutWorker:
    """Holds an engine that samples from the policy's weights."""

    def __init__(self, settings: RolloutSettings):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.repeatable = settings.repeatable
        self.engine = make_engine(settings)
        self.sampler: Samples = self.engine
        self.remembers: list[Engine | Sampler] = [self.engine]
        if (episodes := settings.episodes) is not None:
            user, engine = self._user(settings, episodes.user), self.engine
            self.sampler = Episodes(episodes.turns, episodes.judge, engine, engine.chat, engine.context, user)

    def load_adapter(self, state: AdapterState) -> str:
        """Take new weights; the checksum of what is held now goes back to whoever sent them."""
        return self.engine.load(state)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        if self.repeatable:
            for sampler in self.remembers:
                sampler.forget()
        return self.sampler.sample(requests, settings)

    def _user(self, settings: RolloutSettings, user: Script | UserModel) -> User:
        """A user model lies beside the policy; its weights are its own, and never change."""
        if isinstance(user, Script):
            return ScriptedUser(user)
        sampler = load_sampler(replace(settings, model=user.model, chat_template=user.chat_template))
        self.remembers.append(sampler)
        return ModelUser(user, sampler, sampler.lm.chat, sampler.lm.context)

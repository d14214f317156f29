"""The workers as plain classes: they run in a test without Ray, and Ray wraps them in ``cluster``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from rlrp.dialogue.types import Sample
from rlrp.lm.adapters import AdapterState, LoraSettings, MergedAdapter
from rlrp.lm.load import LanguageModel, load_model
from rlrp.lm.sampling import Completion, Sampler, SampleRequest, SamplingSettings
from rlrp.lm.self_check import use_shared_prefix
from rlrp.protocols import Judgement, Reward
from rlrp.runtime.episodes import Episodes, EpisodeSettings
from rlrp.runtime.users import Engine, ModelUser, Script, ScriptedUser, User, UserModel


@dataclass(frozen=True)
class RolloutSettings:
    model: str
    chat_template: str | None = None
    lora: LoraSettings = field(default_factory=LoraSettings)
    share_prefix: bool = True
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    episodes: EpisodeSettings | None = None
    """null: a completion is one reply."""


class RolloutWorker:
    """Holds the policy's merged weights and samples from them."""

    def __init__(self, settings: RolloutSettings):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        lm = _load(settings, settings.model, settings.chat_template)
        self.adapter = MergedAdapter(lm.model, settings.lora.scaling)
        self.sampler = Sampler(lm)
        self.engine: Engine = self.sampler
        if (episodes := settings.episodes) is not None:
            user = _user(settings, episodes.user)
            self.engine = Episodes(episodes.turns, episodes.judge, self.sampler, lm.chat, lm.context, user)

    def load_adapter(self, state: AdapterState) -> str:
        """Take new weights; the checksum of what is held now goes back to whoever sent them."""
        self.sampler.forget()
        return self.adapter.load(state)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        return self.engine.sample(requests, settings)


def _load(settings: RolloutSettings, model: str, chat_template: str | None) -> LanguageModel:
    dtype = getattr(torch, settings.dtype)
    lm = load_model(model, chat_template=chat_template, dtype=dtype, device=settings.device)
    if settings.share_prefix:
        use_shared_prefix(lm.model)
    return lm


def _user(settings: RolloutSettings, user: Script | UserModel) -> User:
    """A user model lies beside the policy; its weights are its own, and never change."""
    if isinstance(user, Script):
        return ScriptedUser(user)
    lm = _load(settings, user.model, user.chat_template)
    return ModelUser(user, Sampler(lm), lm.chat, lm.context)


class RewardWorker:
    """Holds the composite reward and judges groups."""

    def __init__(self, build: Callable[[], Reward], threads: int | None = None):
        if threads:
            torch.set_num_threads(threads)
        self.reward = build()

    def judge(self, groups: Sequence[Sequence[Sample]]) -> list[list[Judgement]]:
        return self.reward.judge(groups)

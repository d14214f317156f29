"""Engines without a model, for measuring the driver: every call takes as long as a clock or a distribution says.

The same workers stand behind three kinds of actors: real Ray actors that sleep (``asleep``), real Ray actors that each
stand for many (``Crowd``), and the tests' simulated clock. What goes back and forth has the size of the real thing.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings
from rlrp.protocols import Judgement
from rlrp.rl.learner import StepReport, TrainGroup

WORDS = ("and", "then", "she", "said", "nothing", "of", "the", "garden", "while", "rain", "fell", "on", "it")


@dataclass(frozen=True)
class Latency:
    """Seconds of a call: ``per_token_s`` of the tokens asked for, or, with ``mean_s``, drawn from a lognormal
    distribution. The draw is a function of what is asked: whoever does it takes as long, and so does a repetition."""

    mean_s: float = 0.0
    spread: float = 0.0
    """Standard deviation of the logarithm."""
    per_token_s: float = 0.0

    def __call__(self, key: int, tokens: int = 0) -> float:
        drawn = 0.0
        if self.mean_s:
            mu = math.log(self.mean_s) - self.spread**2 / 2
            drawn = random.Random(key).lognormvariate(mu, self.spread)
        return drawn + self.per_token_s * tokens


@dataclass(frozen=True)
class RolloutEngine:
    """Samples nothing: replies of ``new_tokens`` random tokens, made once and given to whoever asks."""

    latency: Latency
    new_tokens: int = 128
    made: int = 64

    def __post_init__(self) -> None:
        rng = random.Random(0)
        object.__setattr__(self, "replies", [reply(rng, self.new_tokens) for _ in range(self.made)])

    def seconds(self, method: str, args: tuple[Any, ...]) -> float:
        if method != "sample":
            return 0.0
        requests: Sequence[SampleRequest] = args[0]
        return self.call_seconds([request.seeds for request in requests])

    def call_seconds(self, seeds: Sequence[Sequence[int]]) -> float:
        """Of a call for so many groups, from the seeds of their completions."""
        return self.latency(seeds[0][0], self.new_tokens * sum(map(len, seeds)))

    def load_adapter(self, state: Any) -> str:
        return str(int(state[0]))

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        replies: list[Completion] = self.replies  # type: ignore[attr-defined]
        at = iter(range(sum(len(r.seeds) for r in requests)))
        return [[replies[next(at) % self.made] for _ in request.seeds] for request in requests]


def reply(rng: random.Random, tokens: int) -> Completion:
    text = " ".join(rng.choice(WORDS) for _ in range(tokens))
    ids = tuple(rng.randrange(1000, 49_000) for _ in range(tokens))
    return Completion(ids, tuple(-rng.random() for _ in range(tokens)), text, "stop")


class RewardEngine:
    """Judges by chance, with the terms, reasons and parts that a composite of three rewards gives."""

    def __init__(self, latency: Latency):
        self.latency, self.rng = latency, random.Random(0)

    def seconds(self, method: str, args: tuple[Any, ...]) -> float:
        (groups,) = args
        return sum(self.group_seconds(group[0].card.name, group[0].messages[-1].content) for group in groups)

    def group_seconds(self, card: str, said: str) -> float:
        """Of a group, from what it answers."""
        return self.latency(zlib.crc32(f"{card}/{said}".encode()))

    def judge(self, groups: Sequence[Sequence[Any]]) -> list[list[Judgement]]:
        return [[self._judgement() for _ in group] for group in groups]

    def _judgement(self) -> Judgement:
        terms: dict[str, float | None] = {name: self.rng.random() for name in ("in_character", "dissonance", "rules")}
        reasons = {name: (f"{name}: what a person can read of it",) for name in terms}
        return Judgement(0.0, terms, reasons, {name: {"raw": self.rng.random(), "weight": 1.0} for name in terms})


class LearnerEngine:
    """Learns nothing, in a fixed time per token; its weights are as many bytes as they are said to be."""

    def __init__(self, per_token_s: float, weights_bytes: int = 4):
        self.per_token_s, self.version = per_token_s, 0
        self.size = max(1, weights_bytes // 4)

    def seconds(self, method: str, args: tuple[Any, ...]) -> float:
        if method != "step":
            return 0.0
        return self.per_token_s * sum(len(ids) for group in args[0] for ids in group.completions)

    def step(self, groups: Sequence[TrainGroup]) -> StepReport:
        self.version += 1
        return StepReport({"loss": 0.0}, [[0.0] * len(group.completions) for group in groups])

    def weights(self) -> tuple[Any, str]:
        return np.full(self.size, self.version, dtype=np.float32), str(self.version)


class Asleep:
    """A worker whose calls last as long as it says: for actors that do one call at a time."""

    def __init__(self, make: Callable[[], Any]):
        self.worker = make()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name)

    def _call(self, name: str, *args: Any) -> Any:
        until = time.monotonic() + self.worker.seconds(name, args)
        answer = getattr(self.worker, name)(*args)
        time.sleep(max(0.0, until - time.monotonic()))
        return answer


def asleep(make: Callable[[], Any]) -> Callable[[], Any]:
    return partial(Asleep, make)


def itself(engine: Any) -> Any:
    """``partial(itself, engine)`` makes a worker of what needs no making."""
    return engine


class Crowd:
    """One process that stands for many actors: each has a number and, as the driver asks for it, one call at a time;
    their worker holds nothing of its own, so one does for all."""

    def __init__(self, make: Callable[[], Any]):
        self.worker = make()

    async def start(self, number: int) -> None:
        """The actor of a number is there."""

    async def do(self, number: int, method: str, *args: Any) -> Any:
        until = time.monotonic() + self.worker.seconds(method, args)
        answer = getattr(self.worker, method)(*args)
        await asyncio.sleep(until - time.monotonic())
        return answer


class Seat:
    """What the driver has of one actor in a crowd: ``start`` and ``do`` as of an actor of its own."""

    def __init__(self, crowd: Any, number: int):
        self.start, self.do = _Method(crowd.start, number), _Method(crowd.do, number)


class _Method:
    def __init__(self, method: Any, number: int):
        self.method, self.number = method, number

    def remote(self, *args: Any) -> Any:
        return self.method.remote(self.number, *args)

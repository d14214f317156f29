"""A run's numbers as metrics of the Ray cluster, which its nodes export to Prometheus with ``ray_`` before the name.

Every gauge has the tag ``run``, those of several parts (terms, pools, phases) one more. docs/grafana.json draws them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """``key`` of a row of metrics; one that ends with ``/`` stands for all that begin so, told apart by ``tag``."""

    key: str
    name: str
    about: str
    tag: str | None = None


METRICS = (
    Metric("step", "rlrp_step", "steps done"),
    Metric("reward/", "rlrp_reward", "mean reward of a step, by term; total is what is optimised", "term"),
    Metric("abstained/", "rlrp_abstained", "share of replies on which a term abstained", "term"),
    Metric("judge", "rlrp_judge", "the judge that is never optimised"),
    Metric("kl", "rlrp_kl", "KL to the anchor, nats a token"),
    Metric("kl_coef", "rlrp_kl_coef", "weight of the KL"),
    Metric("logp_gap", "rlrp_logp_gap", "sampler and learner apart, nats a token"),
    Metric("loss", "rlrp_loss", "loss of the step"),
    Metric("grad_norm", "rlrp_grad_norm", "norm of the gradient before clipping"),
    Metric("reply_tokens", "rlrp_reply_tokens", "mean length of a reply, tokens"),
    Metric("equal_groups", "rlrp_equal_groups", "share of groups whose rewards were all equal"),
    Metric("tokens_per_second/", "rlrp_tokens_per_second", "tokens a second, by pool", "pool"),
    Metric("seconds/", "rlrp_seconds", "seconds of a step as a whole (step) and of its phases, which overlap", "phase"),
    Metric("queue/", "rlrp_queue", "groups that wait or are in work, by state", "state"),
    Metric("restarts/", "rlrp_restarts", "actors started again since the run began, by pool", "pool"),
    Metric("staleness", "rlrp_staleness", "mean age of the samples, in steps of the policy"),
    Metric("dropped", "rlrp_dropped", "samples dropped as too old"),
    Metric("quarantined", "rlrp_quarantined", "prompts given up because they took their actors with them"),
)


class RayGauges:
    """Sets the gauges of one run; needs a process that is connected to Ray."""

    def __init__(self, run: str):
        from ray.util.metrics import Gauge

        self.run = run
        self.gauges: dict[str, Any] = {
            metric.name: Gauge(metric.name, metric.about, ("run", *((metric.tag,) if metric.tag else ())))
            for metric in METRICS
        }

    def log(self, step: int, row: Mapping[str, float]) -> None:
        for name, tags, value in samples({"step": step, **row}):
            self.gauges[name].set(value, {"run": self.run, **tags})

    def close(self) -> None:
        """Nothing to do: Ray's agent forgets the gauges when the driver ends."""


def samples(row: Mapping[str, float]) -> list[tuple[str, dict[str, str], float]]:
    """What a row says: (name of the metric, tags, value)."""
    found: list[tuple[str, dict[str, str], float]] = []
    for metric in METRICS:
        if metric.tag is None:
            found += [(metric.name, {}, row[metric.key])] if metric.key in row else []
            continue
        parts = {key.removeprefix(metric.key): value for key, value in row.items() if key.startswith(metric.key)}
        found += [(metric.name, {metric.tag: p}, v) for p, v in parts.items() if not p.endswith("_std")]
    return found

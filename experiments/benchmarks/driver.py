"""What the driver costs: the real loop, batches, pools and records over engines that only take their time.

    python experiments/benchmarks/driver.py overlap ours --sampling-ms 2000 --learning-ms 2000 --staleness 1
    python experiments/benchmarks/driver.py feed ours --rollouts 256 --rewards 32 --prompts 1024 --group 8
    python experiments/benchmarks/driver.py clock ours --rollouts 256 --rewards 32 --prompts 1024 --group 8

``overlap``: every actor a Ray actor of its own that sleeps. ``feed``: Ray actors that each stand for many, so that
hundreds fit one machine. ``clock``: no Ray and no time at all, the tests' simulated clock, to count what the driver
itself computes. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
# Workers import the engines too.
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], *filter(None, [os.environ.get("PYTHONPATH")])])

import pytest  # noqa: E402
from house import RSS_AT, Begun, RemoteEngine, Setup, Watch, make_batches, open_log, prompt_order, run  # noqa: E402
from simulated import Latency, LearnerEngine, RewardEngine, RolloutEngine  # noqa: E402

from rlrp.runtime import cluster  # noqa: E402
from rlrp.runtime.batches import completion_seeds, deal  # noqa: E402
from tests.runtime import simulated as clock  # noqa: E402

SIZES = {
    **{"prompts": 8, "group": 4, "new-tokens": 32, "rollouts": 2, "rewards": 1, "steps": 12, "skip": 3},
    **{"staleness": 0, "sampling-ms": 2000, "learning-ms": 2000, "sample-ms": 20_000, "judge-ms": 400, "spread": 30},
    **{"weights-mb": 16, "crowds": 4, "rep": 0},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("overlap", "feed", "clock"))
    parser.add_argument("side", choices=("ours", "clock", "limit", "sum", "ideal", "needed"))
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct", help="whose tokenizer makes the prompts")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = globals()[f"{a.work}_{a.side}"](a, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({**row, "peak_memory_gb": round(peak, 3), "load": os.getloadavg()[0]}), flush=True)
    return 0


def tokens(a: Any) -> int:
    return int(a.prompts * a.group * a.new_tokens)


# -- overlap ---------------------------------------------------------------------------------------------------------


def even(a: Any) -> Setup:
    """Engines with a fixed time per token."""
    return Setup(
        a.rollouts,
        a.rewards,
        a.prompts,
        a.group,
        RolloutEngine(Latency(per_token_s=a.sampling_ms / 1e3 * a.rollouts / tokens(a)), a.new_tokens),
        RewardEngine(Latency(mean_s=1e-3)),
        LearnerEngine(a.learning_ms / 1e3 / tokens(a), a.weights_mb << 20),
        a.staleness,
    )


def overlap_ours(a: Any, folder: Path) -> dict[str, Any]:
    """Seconds a step of Ray actors that sleep, in steady state."""
    cluster.connect()
    setup = even(a)
    batches = make_batches(setup, prompt_order(a.model, a.rep), sleep=True)
    watch = run(batches, RemoteEngine(setup.learner), a.steps, Watch(open_log(folder)))
    return report(a, watch)


def overlap_clock(a: Any, _: Path) -> dict[str, Any]:
    """The same by the simulated clock: what no driver that takes time can better."""
    watch, _events, _cpu = on_the_clock(a, even(a), prompt_order(a.model, a.rep))
    return {"seconds": watch.per_step(watch.ends, a.skip), "tokens": tokens(a)}


def overlap_limit(a: Any, _: Path) -> dict[str, Any]:
    return {"seconds": max(a.sampling_ms, a.learning_ms) / 1e3, "tokens": tokens(a)}


def overlap_sum(a: Any, _: Path) -> dict[str, Any]:
    return {"seconds": (a.sampling_ms + a.learning_ms) / 1e3, "tokens": tokens(a)}


# -- many actors -----------------------------------------------------------------------------------------------------


def many(a: Any) -> Setup:
    """Engines whose every call has a time of its own."""
    return Setup(
        a.rollouts,
        a.rewards,
        a.prompts,
        a.group,
        RolloutEngine(Latency(mean_s=a.sample_ms / 1e3, spread=a.spread / 100), a.new_tokens),
        RewardEngine(Latency(mean_s=a.judge_ms / 1e3, spread=a.spread / 100)),
        LearnerEngine(a.learning_ms / 1e3 / tokens(a), a.weights_mb << 20),
        a.staleness,
        a.rep,
    )


def feed_ours(a: Any, folder: Path) -> dict[str, Any]:
    """Seconds with real Ray calls: strict, of a step's sampling and judging; with staleness, of a step."""
    cluster.connect()
    setup = many(a)
    batches = make_batches(setup, prompt_order(a.model, a.rep), crowds=a.crowds)
    watch = run(batches, RemoteEngine(setup.learner), a.steps, Watch(open_log(folder)))
    events = sum(pool.events for pool in (batches.rollouts, batches.judges))  # type: ignore[attr-defined]
    row = report(a, watch) | {"events": events / a.steps}
    return row if a.staleness else row | {"seconds": row["parts_s"]["wait"]}


def report(a: Any, watch: Watch) -> dict[str, Any]:
    return {
        "seconds": watch.per_step(watch.ends, a.skip),
        "step_s": watch.per_step(watch.ends, a.skip),
        "take_s": [round(wait, 3) for wait in watch.waits[:32]],
        "parts_s": {
            name: statistics.fmean(row.get(name, 0.0) for row in watch.rows[a.skip :])
            for name in ("wait", "learn", "sync", "log")
        },
        "cpu_s": watch.per_step(watch.cpu, a.skip),
        "rss_mb": {str(at): round(watch.rss_mb[at - 1]) for at in RSS_AT if at <= len(watch.rss_mb)},
        "tokens": tokens(a),
    }


def feed_ideal(a: Any, _: Path) -> dict[str, Any]:
    """The same latencies without a driver: list scheduling if strict, else the clock's account of an empty driver."""
    setup, order = many(a), prompt_order(a.model, a.rep)
    spans = [span(setup, order, step) for step in range(a.steps)]
    row: dict[str, Any] = {"take_s": [round(s, 3) for s in spans[:32]], "tokens": tokens(a)}
    if not a.staleness:
        return row | {"seconds": statistics.fmean(spans[a.skip :])}
    watch, _events, _cpu = on_the_clock(a, setup, order)
    return row | {"seconds": watch.per_step(watch.ends, a.skip)}


def span(setup: Setup, order: Callable[[int], Any], step: int) -> float:
    """The least that the sampling and judging of a strict step takes."""
    draws = range(step * setup.prompts, (step + 1) * setup.prompts)
    prompts = [order(draw) for draw in draws]
    calls = []
    for share in deal([len(prompt.ids) for prompt in prompts], setup.rollouts):
        seeds = [completion_seeds(setup.seed, draws[i], setup.group) for i in share]
        judging = [setup.reward.group_seconds(prompts[i].card.name, prompts[i].messages[-1].content) for i in share]
        calls.append((setup.rollout.call_seconds(seeds), judging))
    return clock.list_schedule(calls, setup.rollouts, setup.rewards)


def clock_ours(a: Any, folder: Path) -> dict[str, Any]:
    """CPU seconds of the driver's own code for so many answers of its actors, prompts and records included."""
    watch, events, cpu = on_the_clock(a, many(a), prompt_order(a.model, a.rep), folder)
    own = cpu["all"] - cpu["simulation"]
    parts = {name: round(cpu[name] / a.steps, 3) for name in ("prompts", "records")}
    parts["pools and batches"] = round(own / a.steps - sum(parts.values()), 3)
    return report(a, watch) | {"seconds": own, "tokens": events, "cpu_s_per_step": parts}


def clock_needed(a: Any, _: Path) -> dict[str, Any]:
    """How many answers so many actors give in the time that the clock counts."""
    watch, events, _cpu = on_the_clock(a, many(a), prompt_order(a.model, a.rep))
    return {"seconds": watch.ends[-1], "tokens": events}


def on_the_clock(
    a: Any, setup: Setup, order: Callable[[int], Any], folder: Path | None = None
) -> tuple[Watch, int, dict[str, float]]:
    """A run on the tests' simulated clock: its records, how many answers there were, and CPU seconds by what they went
    to, the simulation's own among them."""
    patch, cpu = pytest.MonkeyPatch(), {"simulation": 0.0, "prompts": 0.0, "records": 0.0}
    simulated = clock.simulate(patch)
    for kind, name in ((clock.Actor, "_begin"), (clock.SimulatedRay, "get"), (clock.SimulatedRay, "wait")):
        patch.setattr(kind, name, timed(getattr(kind, name), cpu, "simulation"))
    batches = make_batches(setup, timed(order, cpu, "prompts"))
    watch = Watch(open_log(folder), now=lambda: simulated.now)
    patch.setattr(watch, "write", timed(watch.write, cpu, "records"))
    started = time.process_time()
    run(batches, SimulatedLearner(setup.learner, simulated), a.steps, watch)
    cpu["all"] = time.process_time() - started
    patch.undo()
    return watch, sum(pool.events for pool in (batches.rollouts, batches.judges)), cpu  # type: ignore[attr-defined]


def timed(function: Callable[..., Any], cpu: dict[str, float], part: str) -> Callable[..., Any]:
    """Adds up the CPU seconds of a function's calls."""

    def measured(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            cpu[part] += time.process_time() - started

    return measured


class SimulatedLearner:
    def __init__(self, engine: LearnerEngine, ray: clock.SimulatedRay):
        self.engine, self.ray = engine, ray

    def begin(self, groups: Any) -> Begun:
        until = self.ray.now + self.engine.seconds("step", (groups,))
        return Begun([clock.Reference(until, lambda: self.engine.step(groups))])

    def weights(self) -> tuple[Any, str]:
        return self.engine.weights()


if __name__ == "__main__":
    raise SystemExit(main())

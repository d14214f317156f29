"""Ours and the peer in turn, every repetition in a process of its own; medians; results.json, a table and a plot.

    make bench                                             # everything, about an hour and a half on two cores
    python experiments/benchmarks/run.py --only rollout_vs_generate scoring_variants
    python experiments/benchmarks/run.py --only step_vs_trl_350 --size prompt-tokens=1000 --size group=16
    python experiments/benchmarks/run.py --vllm /path/to/venv/bin/python

A repetition meets other cards than the one before. ``ratio`` is how many times better ours is: of seconds per token,
of seconds, or of memory. Growth benchmarks compare ours with ourselves; those of the driver (overlap, feed, clock;
docs/scale.md) compare it with what no driver can better, and need no model but its tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plot import draw

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


@dataclass(frozen=True)
class Benchmark:
    """What to measure: our worker's arguments, the peer's, and which figure is compared."""

    work: str
    sizes: dict[str, int]
    ours: tuple[str, ...] = ()
    peer: str = "peer"
    peer_options: tuple[str, ...] = ()
    peer_sizes: dict[str, int] = field(default_factory=dict)
    figure: str = "rate"
    goal: str = ""
    script: str = "worker.py"
    reps: int | None = None
    """Where the answer is the same each time or long in coming; else as many as asked for."""


ROLLOUT = {"prompts": 4, "group": 8, "prompt-tokens": 680, "new-tokens": 64}
# A micro-batch of ours holds one group: memory for no more, and no prompt computed twice.
STEP_350 = {"prompts": 2, "group": 8, "prompt-tokens": 350, "new-tokens": 48, "token-budget": 1024}
STEP_1400 = {"prompts": 1, "group": 8, "prompt-tokens": 1400, "new-tokens": 48, "token-budget": 2400}
LEAN = ("--micro-batch", "2", "--checkpointing")

BENCHMARKS = {
    "rollout_vs_generate": Benchmark("rollout", ROLLOUT, goal="at least 6x"),
    "rollout_warm_vs_generate": Benchmark("rollout", ROLLOUT, ours=("--warm",), goal="at least 9x"),
    "rollout_vs_vllm": Benchmark("rollout", ROLLOUT, peer="vllm", goal="at least 2.5x"),
    "rollout_warm_vs_vllm": Benchmark(
        "rollout", ROLLOUT, ours=("--warm",), peer="vllm", peer_options=("--warm",), goal="at least 2x"
    ),
    "rollout_vs_limit": Benchmark("rollout", ROLLOUT, peer="limit", goal="at least 0.8"),
    "step_vs_trl_350": Benchmark("step", STEP_350, goal="at least 7x"),
    "step_vs_trl_1400": Benchmark("step", STEP_1400, peer_options=LEAN, goal="at least 10x, ours under 6 GB"),
    "memory_vs_trl": Benchmark("step", STEP_350, figure="memory", goal="at least 5x (ours at most 0.2 of TRL's)"),
    "growth_group": Benchmark(
        "step", STEP_1400 | {"group": 16}, peer="ours", peer_sizes={"group": 4}, figure="seconds", goal="at least 1/1.8"
    ),
    "growth_reply": Benchmark(
        "step",
        STEP_350 | {"new-tokens": 192, "token-budget": 2400},
        peer="ours",
        peer_sizes={"new-tokens": 48},
        figure="seconds",
        goal="no worse than the tokens",
    ),
    "scoring_variants": Benchmark(
        "score", {"prompts": 1, "group": 8, "prompt-tokens": 700, "new-tokens": 60}, goal="at least 4x"
    ),
}

# The driver over engines that only take their time: docs/scale.md.
DRIVER: dict[str, Any] = {"script": "driver.py", "reps": 1, "figure": "seconds"}
MANY = {"rollouts": 256, "rewards": 32}
STEP = MANY | {"prompts": 1024, "group": 8, "new-tokens": 128, "sample-ms": 10_000, "judge-ms": 200}
STEP |= {"learning-ms": 3000, "steps": 7, "skip": 2}
SHORT = {"prompts": 32, "group": 4, "new-tokens": 64, "staleness": 1, "weights-mb": 1, "steps": 1000}
for sampling, learning in ((2000, 1000), (2000, 2000), (1000, 2000)):
    times = {"sampling-ms": sampling, "learning-ms": learning}
    ratio = f"{sampling // 1000}_{learning // 1000}"
    BENCHMARKS |= {
        f"overlap_{ratio}_strict": Benchmark("overlap", times, peer="sum", goal="at least 0.95 (the sum)", **DRIVER),
        **{
            f"overlap_{ratio}_staleness_{k}": Benchmark(
                "overlap", times | {"staleness": k}, peer="limit", goal="at least 0.952 (1.05 x the longer)", **DRIVER
            )
            for k in (1, 2)
        },
    }
BENCHMARKS |= {
    "feed_strict": Benchmark("feed", STEP, peer="ideal", goal="at least 0.952 (5 % over the ideal)", **DRIVER),
    "feed_staleness_2": Benchmark(
        "feed",
        STEP | {"staleness": 2, "steps": 14, "skip": 4},
        peer="ideal",
        goal="at least 0.952 (5 % over the ideal)",
        **DRIVER,
    ),
    "feed_memory": Benchmark(
        "feed",
        MANY | SHORT | {"sample-ms": 50, "judge-ms": 5, "learning-ms": 10},
        peer="ours",
        peer_sizes={"steps": 100},
        goal="no more after 1,000 steps than after 100",
        **DRIVER | {"figure": "memory"},
    ),
    "clock_memory": Benchmark(
        "clock",
        MANY | SHORT,
        peer="ours",
        peer_sizes={"steps": 100},
        goal="no more after 1,000 steps than after 100",
        **DRIVER | {"figure": "memory"},
    ),
    "clock_events": Benchmark(
        "clock",
        STEP | {"steps": 4},
        peer="needed",
        goal="more than the actors give",
        **DRIVER | {"figure": "events"},
    ),
}
UNITS = {"rate": "tokens/s", "seconds": "s", "memory": "GB", "events": "events/s"}


class Missing(Exception):
    """A peer that is not installed here."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--size", action="append", default=[], metavar="NAME=N", help="another size, for both sides")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vllm", default=os.environ.get("RLRP_VLLM_PYTHON"), help="Python of an environment with vLLM")
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for name in a.only:
        try:
            row = run(name, BENCHMARKS[name], a, found)
        except Missing as missing:
            print(f"{name}: skipped, {missing}", flush=True)
            continue
        save(a.out, row)
        print(f"{name}: {row['ours']:.4g} against {row['peer']:.4g} {row['unit']}: {row['ratio']:.2f}x", flush=True)
    rows = [row for row in json.loads(a.out.read_text()) if BENCHMARKS[row["name"]].script == "worker.py"]
    if rows:
        draw(rows, a.out.with_suffix(".png"))
    print(a.out, a.out.with_suffix(".png"))
    return 0


def run(name: str, benchmark: Benchmark, a: argparse.Namespace, found: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """The medians of ``a.reps`` repetitions, ours and the peer's in turn."""
    own_sizes = benchmark.sizes | {key: int(n) for key, _, n in (size.partition("=") for size in a.size)}
    sides = {
        "ours": (benchmark.work, "ours", *_options(own_sizes), *benchmark.ours),
        "peer": (
            benchmark.work,
            benchmark.peer,
            *_options(own_sizes | benchmark.peer_sizes),
            *benchmark.peer_options,
        ),
    }
    measured: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    reps = benchmark.reps or a.reps
    for rep in range(reps):
        for side, command in sides.items():
            key = (*command, str(rep))
            if key not in found:  # two benchmarks that read different figures of the same runs
                found[key] = call(benchmark.script, command, rep, a)
                print(f"  {name} {side} {rep + 1}/{reps}: {found[key]}", file=sys.stderr, flush=True)
            measured[side].append(found[key])
    ours, peer = (statistics.median(figure(m, benchmark.figure) for m in measured[s]) for s in ("ours", "peer"))
    more_is_better = benchmark.figure in ("rate", "events")
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer if more_is_better else peer / ours,
        "unit": UNITS[benchmark.figure],
        "goal": benchmark.goal,
        "setting": {"ours": " ".join(sides["ours"]), "peer": " ".join(sides["peer"]), "model": a.model, "reps": reps},
        "runs": measured,
        "machine": machine(a),
    }


def figure(run: dict[str, float], kind: str) -> float:
    rate = run["tokens"] / run["seconds"]
    return {"rate": rate, "events": rate, "seconds": run["seconds"], "memory": run["peak_memory_gb"]}[kind]


def call(script: str, command: tuple[str, ...], rep: int, a: argparse.Namespace) -> dict[str, float]:
    """One worker process; its JSON line."""
    if script != "worker.py":
        return run_worker([sys.executable, str(HERE / script), *command, "--rep", str(rep), "--model", a.model])
    common = [*command, "--rep", str(rep), "--threads", str(a.threads), "--device", a.device]
    if command[1] != "vllm":
        return run_worker([sys.executable, str(HERE / "worker.py"), *common, "--model", a.model])
    if not a.vllm:
        raise Missing("no Python with vLLM: pass --vllm or set RLRP_VLLM_PYTHON")
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder) / "ids.json"
        # vLLM's environment has none of our packages: it gets the prompts as token ids and the model as a directory.
        made = run_worker([sys.executable, str(HERE / "worker.py"), *common, "--model", a.model, "--ids", str(ids)])
        return run_worker([a.vllm, str(HERE / "vllm_worker.py"), *common, "--model", made["model"], "--ids", str(ids)])


def run_worker(command: list[str]) -> Any:
    """The JSON line that a worker prints."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def _options(sizes: dict[str, int]) -> list[str]:
    return [part for name, value in sizes.items() for part in (f"--{name}", str(value))]


def machine(a: argparse.Namespace) -> str:
    name = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
    width = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{name}, {os.cpu_count()} cores, {width}, {a.threads} threads, {a.device}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def save(path: Path, row: dict[str, Any]) -> None:
    """Replace the benchmark's row, keep the others."""
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [old for old in rows if old["name"] != row["name"]] + [row]
    rows.sort(key=lambda r: list(BENCHMARKS).index(r["name"]))
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows, indent=1) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())

"""One measurement in a process of its own, so that memory is its alone: prints one line of JSON.

python experiments/benchmarks/worker.py rollout ours --prompts 4 --group 8 --prompt-tokens 680 --new-tokens 64
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).parent))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=("rollout", "step", "score"))
    parser.add_argument("engine", choices=("ours", "peer", "limit", "vllm"))
    parser.add_argument("--model", default="packaged:smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=680)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rep", type=int, default=0, help="which cards: every repetition meets others")
    parser.add_argument("--warm", action="store_true", help="the cards were seen before, with another user turn")
    parser.add_argument("--token-budget", type=int, default=1600, help="tokens in one micro-batch of our step")
    parser.add_argument("--micro-batch", type=int, help="of the peer's step")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in the peer's step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ids", type=Path, help="write vLLM's prompts there as token ids, measure nothing")
    arguments = parser.parse_args()
    import measures

    if arguments.ids:
        print(json.dumps({"model": measures.write_ids(arguments)}), flush=True)
        return 0

    measure = getattr(measures, f"{arguments.work}_{arguments.engine}")
    with tempfile.TemporaryDirectory() as folder:
        seconds, tokens = measure(arguments, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_memory_gb": round(peak, 3)}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The rollout measurement by vLLM, run with the Python of an environment that has it; the same line of JSON.

Prompts come from ours (`prompts.py`) as token ids in a file, so that this environment needs nothing but vLLM.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=("rollout",))
    parser.add_argument("engine", choices=("vllm",))
    parser.add_argument("--model", required=True, help="a directory")
    parser.add_argument(
        "--ids", type=Path, required=True, help='JSON: {"other": [[ids]], "seen": [...], "asked": [...]}'
    )
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rep", type=int, default=0)
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    a, _ = parser.parse_known_args()
    if a.device == "cpu":
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{a.threads - 1}")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    prompts = json.loads(a.ids.read_text())
    llm = LLM(a.model, dtype="float32", enable_prefix_caching=True, max_model_len=2048, seed=a.rep)

    def draw(ids: list[list[int]], new: int) -> int:
        settings = SamplingParams(n=a.group, temperature=1.0, max_tokens=new, ignore_eos=True, seed=a.rep)
        out = llm.generate([{"prompt_token_ids": row} for row in ids], settings, use_tqdm=False)
        return sum(len(completion.token_ids) for request in out for completion in request.outputs)

    draw(prompts["other"], 4)
    if a.warm:
        draw(prompts["seen"], 4)
    started = time.perf_counter()
    tokens = draw(prompts["asked"], a.new_tokens)
    seconds = time.perf_counter() - started
    peak = (
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024 / 1e9
    )
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_memory_gb": round(peak, 3)}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

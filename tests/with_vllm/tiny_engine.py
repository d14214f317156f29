"""Syncs and samples with vLLM and a tiny model in a process of its own, for ``test_architectures.py``.

Prints one line of JSON: per sync whether the checksum is right, and the largest difference of log-probabilities to
the learner's.
"""

from __future__ import annotations

import json
import sys

import torch

from rlrp.lm.adapters import LoraSettings, add_lora, checksum
from rlrp.lm.engines import make_engine
from rlrp.lm.engines.settings import EngineSettings, VllmSettings
from rlrp.lm.load import load_model
from rlrp.lm.sampling import SampleRequest, SamplingSettings
from with_vllm.made import drawn_state, gaps

LORA = LoraSettings(r=4, alpha=10)
REQUESTS = [SampleRequest(tuple(range(10, 10 + length)), (1, 2)) for length in (5, 17)]


def main(folder: str, tensor_parallel: int) -> None:
    vllm = VllmSettings(max_model_len=256, tensor_parallel=tensor_parallel, options={"kv_cache_memory_bytes": 1 << 26})
    engine = make_engine(EngineSettings(folder, lora=LORA, engine="vllm", vllm=vllm))
    policy = add_lora(load_model(folder).model, LORA, seed=0).eval()
    found = {}
    for kind, only in (("adapter", ("",)), ("some", ("q_proj", "up_proj", "o_proj")), ("whole", ())):
        model, state = policy, drawn_state(policy, len(found), 0.3, only)
        if kind == "whole":
            model = load_model(folder).model
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
            state = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        right = engine.load(state) == checksum(state)
        drawn = engine.sample(REQUESTS, SamplingSettings(max_new_tokens=12, ignore_stop=True))
        found[kind] = {"right": right, "gap": float(gaps(model, REQUESTS, drawn, 1.0).max())}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

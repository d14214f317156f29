"""The engines behind their interface, without vLLM: ours, and what is decided before vLLM is asked."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from rlrp.errors import UserError
from rlrp.lm.adapters import LoraSettings, adapter_state, add_lora, checksum
from rlrp.lm.checkpoint import open_checkpoint
from rlrp.lm.engines import make_engine
from rlrp.lm.engines.ours import OurEngine
from rlrp.lm.engines.settings import EngineSettings, VllmSettings
from rlrp.lm.engines.vllm import CPU_CACHE_BYTES, check_request, llm_options
from rlrp.lm.load import load_model
from rlrp.lm.sampling import SampleRequest, SamplingSettings
from rlrp.lm.scoring import TokenGroup, token_logprobs

REQUESTS = [SampleRequest((1, 2, 3), (5, 6))]


def test_ours_is_the_default(tiny_folder: str) -> None:
    assert isinstance(make_engine(EngineSettings(tiny_folder)), OurEngine)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is there")
def test_a_missing_vllm_is_one_line(tiny_folder: str) -> None:
    with pytest.raises(UserError, match=r"^rl\.engine: vLLM cannot be imported .*pip install 'rlrp\[vllm\]'"):
        make_engine(EngineSettings(tiny_folder, engine="vllm"))


def test_ours_takes_whole_weights(tiny_folder: str) -> None:
    engine = OurEngine(EngineSettings(tiny_folder))
    model = tiny_model(seed=1)
    state = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert engine.load(state) == checksum(state)
    (drawn,) = engine.sample(REQUESTS, SamplingSettings(max_new_tokens=6))
    with torch.no_grad():
        scored = token_logprobs(model, [TokenGroup((1, 2, 3), tuple(c.ids for c in drawn))]).logp
    torch.testing.assert_close(torch.tensor([x for c in drawn for x in c.logps]), scored, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="no parameter of the model: other"):
        engine.load({"other": torch.zeros(1)})


def test_a_narrower_adapter_leaves_nothing_of_a_wider_one(tiny_folder: str) -> None:
    lora = LoraSettings(r=2, alpha=4)
    policy = add_lora(load_model(tiny_folder).model, lora, seed=0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    wide = adapter_state(policy)
    narrow = {name: tensor for name, tensor in wide.items() if "q_proj" in name}
    fresh, used = (OurEngine(EngineSettings(tiny_folder, lora=lora)) for _ in range(2))
    used.load(wide)
    assert fresh.load(narrow) == used.load(narrow)
    for expected, found in zip(fresh.sampler.lm.model.parameters(), used.sampler.lm.model.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_options_of_vllm() -> None:
    vllm = VllmSettings(0.4, max_model_len=4096, tensor_parallel=2, options={"max_num_seqs": 64})
    options = llm_options(EngineSettings("m", dtype="bfloat16", device="cuda", vllm=vllm), "/models/m")
    assert options["logprobs_mode"] == "processed_logprobs"
    assert options["enable_prefix_caching"] is True
    assert options["distributed_executor_backend"] == "mp"
    wanted = {"model": "/models/m", "dtype": "bfloat16", "gpu_memory_utilization": 0.4, "max_model_len": 4096}
    assert wanted.items() <= options.items()
    assert (options["tensor_parallel_size"], options["max_num_seqs"], options["enforce_eager"]) == (2, 64, False)
    assert "kv_cache_memory_bytes" not in options


def test_the_cpu_build_runs_eagerly_in_bounded_memory() -> None:
    options = llm_options(EngineSettings("m"), "m")
    assert options["enforce_eager"] is True
    assert options["kv_cache_memory_bytes"] == CPU_CACHE_BYTES
    small = VllmSettings(options={"kv_cache_memory_bytes": 1 << 28})
    assert llm_options(EngineSettings("m", vllm=small), "m")["kv_cache_memory_bytes"] == 1 << 28


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SamplingSettings(top_k=5), "^rl.engine: top_k, top_p and min_p"),
        (SamplingSettings(top_p=0.9), "^rl.engine: top_k, top_p and min_p"),
        (SamplingSettings(temperature=0.005), "^temperature: got 0.005; vLLM takes 0 .greedy. or 0.01 to 2"),
        (SamplingSettings(temperature=2.5), "^temperature: got 2.5"),
        (SamplingSettings(max_new_tokens=8), "a prompt of 3 tokens and a reply of 8 exceed vLLM's context of 10"),
    ],
)
def test_what_vllm_cannot_do_is_refused(settings: SamplingSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_request(REQUESTS, settings, context=10)


def test_what_vllm_can_do_is_not() -> None:
    for temperature in (0.0, 0.01, 1.0, 2.0):
        check_request(REQUESTS, SamplingSettings(max_new_tokens=7, temperature=temperature), context=10)


def test_tensors_of_a_model_in_one_file_and_in_several(tmp_path: Path) -> None:
    model = tiny_model(shared=False)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "several", max_shard_size="20KB")
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 1
    weights = model.state_dict()
    for folder in ("one", "several"):
        with open_checkpoint(tmp_path / folder) as checkpoint:
            assert {"model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight"} <= set(checkpoint.names)
            for name in checkpoint.names:
                assert torch.equal(checkpoint[name], weights[name])
    with pytest.raises(UserError, match="weights must be safetensors"), open_checkpoint(tmp_path):
        pass

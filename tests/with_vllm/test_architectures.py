"""Other shapes of model than the small real one: biases, an untied vocabulary, norms on queries and keys, and a model
that is spread over two workers. Each runs in a process of its own, for there is one vLLM in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import save_tiny

HERE = Path(__file__).parent
SHAPE = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 192}
"""Heads that vLLM's attention takes on a CPU."""


@pytest.mark.parametrize(
    ("architecture", "workers", "settings"),
    [("Qwen2", 1, {"tie_word_embeddings": False}), ("Qwen3", 2, {"tie_word_embeddings": True})],
)
def test_every_kind_of_weights_arrives(
    architecture: str, workers: int, settings: dict[str, bool], tmp_path: Path
) -> None:
    pytest.importorskip("vllm")
    folder = save_tiny(tmp_path / "model", architecture, **SHAPE, **settings)
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH"), str(HERE.parents[1])])]
    done = subprocess.run(
        [sys.executable, str(HERE / "tiny_engine.py"), folder, str(workers)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"adapter", "some", "whole"}
    for kind, answer in found.items():
        assert answer["right"], (kind, found)
        assert answer["gap"] < 1e-3, (kind, found)

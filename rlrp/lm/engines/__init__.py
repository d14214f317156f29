"""What draws completions behind one small interface: ours (prefix-shared, CPU or GPU), or vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlrp.lm.adapters import AdapterState
from rlrp.lm.chat import ChatFormat
from rlrp.lm.engines.settings import EngineSettings
from rlrp.lm.sampling import Completion, SampleRequest, SamplingSettings


class Engine(Protocol):
    """Holds the policy's weights and samples from them: token ids in, token ids out.

    ``context`` is the longest prompt and reply together, in tokens.
    """

    chat: ChatFormat
    context: int

    def load(self, state: AdapterState) -> str:
        """Take new weights; the checksum of ``state`` comes back if what the engine computes with now is the model
        with that adapter, bit for bit as it was merged, and another one if not."""
        ...

    def forget(self) -> None:
        """Use nothing again that was computed for earlier calls: which prompts came before shows in the last bits."""
        ...

    def sample(self, requests: Sequence[SampleRequest], settings: SamplingSettings) -> list[list[Completion]]:
        """Completions for every request, in order, one per seed.

        Raises:
            UserError: the engine cannot sample like that, or prompt and reply do not fit the model's context.
        """
        ...


def make_engine(settings: EngineSettings) -> Engine:
    """Load the model into the engine that the settings name; what the other one needs is not imported."""
    if settings.engine == "vllm":
        from rlrp.lm.engines.vllm import VllmEngine

        return VllmEngine(settings)
    from rlrp.lm.engines.ours import OurEngine

    return OurEngine(settings)

"""TRL's SFT trainer: our progress bar, and for a CPU the vocabulary projected where there is something to learn."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from trl import SFTTrainer

from rlrp.lm.scoring import output_head, project
from rlrp.lm.shared_prefix import decoder_of
from rlrp.progress import progress

_IGNORED = -100


class CpuSFTTrainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """The same loss as ``SFTTrainer``'s, from the reply tokens alone.

    Without Triton, TRL projects every token to the vocabulary and masks afterwards. In role-play the card and the
    user's turns are most of a dialogue, and a vocabulary of 262,144 (Gemma 3) is most of a small model's work.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean negative log-likelihood of the labelled tokens (over ``num_items_in_batch``, if given)."""
        if return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        said = labels != _IGNORED
        out = decoder_of(model)(
            input_ids=inputs["input_ids"], attention_mask=inputs.get("attention_mask"), use_cache=False
        )
        head, softcap = output_head(model)
        scores = project(
            out.last_hidden_state[:, :-1][said], head, labels[said], temperature=1.0, entropy=False, softcap=softcap
        )
        count = said.sum() if num_items_in_batch is None else num_items_in_batch
        loss: Tensor = -scores.logp.sum() / max(int(count), 1)
        return loss


class ShowProgress(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
    """Within, a trainer's steps move our progress bar: libraries' own bars are off with their chatter."""

    def __init__(self, trainer: Any):
        trainer.add_callback(self)
        self.bar: progress | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.__exit__(*error)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = progress("sft: steps", state.max_steps)
        self.bar.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            self.bar.advance()

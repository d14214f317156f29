"""The dry run's arithmetic."""

from __future__ import annotations

import pytest

from rlrp.plan import sft_steps


@pytest.mark.parametrize(
    ("examples", "epochs", "batch", "steps"),
    [(144, 0.2, 4, 8), (84, 1.0, 4, 21), (5, 1.0, 4, 2), (5, 2.0, 4, 4), (3, 0.1, 4, 1)],
)
def test_sft_steps_are_the_trainers(examples: int, epochs: float, batch: int, steps: int) -> None:
    # 144 examples in batches of 4 are 36 steps an epoch; a fifth of it is 7.2, and the demo took 8.
    assert sft_steps(examples, epochs, batch) == steps

"""What RL keeps of its reward in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rlrp.runtime.checkpoints import latest_checkpoint
from rlrp.stages.rl import _checkpoint


def test_the_state_of_the_totals_is_in_the_checkpoint_to_the_bit(tmp_path: Path) -> None:
    state = {"running": {"length": {"count": 3, "mean": 0.1 + 0.2, "m2": 1e-17 / 3}}}
    learner: Any = SimpleNamespace(save=lambda folder: (Path(folder) / "weights").write_text("w"))
    totals: Any = SimpleNamespace(state=lambda: state)
    _checkpoint(tmp_path, learner, totals, "settings", "hash", 2, 5)
    found = latest_checkpoint(tmp_path, settings="settings")
    assert found is not None and found[1]["totals"] == state and found[1]["step"] == 5

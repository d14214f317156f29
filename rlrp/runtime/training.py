"""A run from its last checkpoint to its end, through the loss of its learner."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from safetensors import SafetensorError

from rlrp.errors import UserError, first_line
from rlrp.protocols import Totals
from rlrp.runtime import checkpoints
from rlrp.runtime.actors import tell
from rlrp.runtime.batches import Batches
from rlrp.runtime.learners import LearnerLost
from rlrp.runtime.loop import Batch, Log, LoopSettings, train

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Learns(Protocol):
    """The learner, as far as a run needs it beyond its steps."""

    def begin(self, groups: Any) -> Any: ...
    def weights(self) -> tuple[Any, str]: ...
    def save(self, folder: str) -> None: ...
    def load(self, folder: str) -> None: ...
    def restart(self) -> None: ...


class Closes(Log, Protocol):
    def close(self) -> None: ...


@dataclass
class Training:
    """The parts of a run. All that changes as it goes lies in its checkpoints: the learner's weights, optimizer and KL
    coefficient, the totals' statistics, and which draws come next."""

    folder: Path
    loop: LoopSettings
    learner: Learns
    batches: Batches
    totals: Totals
    open_log: Callable[[int], Closes]
    """Opens the run's records with those after so many steps dropped."""
    settings: str
    """Fingerprint of what must be the same to go on from a checkpoint."""
    reward: str = ""
    keep: int = 2
    max_restarts: int = 8
    scores: list[float] = field(default_factory=list)
    """Mean rewards of the steps since the last checkpoint."""

    def run(self) -> None:
        """To the last step.

        Raises:
            LearnerLost: it was lost ``max_restarts`` times in a row without getting any further.
            UserError: the disk is full.
        """
        lost, furthest = 0, -1
        while True:
            log = None
            try:
                start = self._resume()
                if start > furthest:
                    lost, furthest = 0, start
                log = self.open_log(start)
                return train(self.loop, self.batches, self.learner, log, self._checkpoint, start)
            except LearnerLost as error:
                lost += 1
                if lost > self.max_restarts:
                    raise
                self.batches.learner_restarts = restart = self.batches.learner_restarts + 1
                tell(f"learner actor died ({error}); restart {restart}, back to the last checkpoint")
                self.learner.restart()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise UserError(
                    f"{error.strerror}; free some and run the same command again", file=error.filename or self.folder
                ) from error
            finally:
                if log is not None:
                    log.close()

    def _resume(self) -> int:
        """Load the newest whole checkpoint, if there is one; the steps it has."""
        found = checkpoints.latest_checkpoint(self.folder, settings=self.settings)
        folder, state = found or (None, {})
        if folder is not None:
            checkpoints.point_last(folder)
            self.learner.load(str(folder.absolute()))
        start = int(state.get("step", 0))
        self.totals.load_state(state.get("totals", {}))
        self.batches.load_state(state.get("batches", {}), start)
        self.scores.clear()
        return start

    def _checkpoint(self, step: int, batch: Batch) -> None:
        self.scores.append(fmean(j.total for group in batch.groups for j in group.judgements))
        if step % self.loop.checkpoint_every and step != self.loop.steps:
            return
        state = {
            "settings": self.settings,
            "reward": self.reward,
            "totals": self.totals.state(),
            "batches": self.batches.state(),
        }
        try:
            checkpoints.save_checkpoint(
                self.folder.absolute(), step, self.learner.save, state, keep=self.keep, score=fmean(self.scores)
            )
        except (OSError, SafetensorError) as error:
            # A run that may go on is worth more than one that ends at the first full disk; its last step is not.
            if step == self.loop.steps:
                raise UserError(
                    f"the last checkpoint could not be written: {first_line(error, 200)}; make room and run the same "
                    "command again",
                    file=self.folder / "checkpoints",
                ) from error
            tell(f"step {step}: no checkpoint: {first_line(error, 200)}")
        else:
            self.scores.clear()

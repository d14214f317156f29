"""Trackers by name: TensorBoard, and the libraries of Weights & Biases, MLflow and Trackio where they are installed;
on a cluster also ``ray``, whose metrics its nodes export.

Their own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID, ...) say where the numbers go. A run
that goes on from a checkpoint goes on in the same tracker's run: ``trackers.json`` in the run directory knows which.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlrp.errors import UserError, first_line
from rlrp.files import read_json, write_json

NOTE = "trackers.json"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio", "ray": "ray"}


class Tracker(Protocol):
    """``log`` gets the numbers of one step, counted from 1; ``close`` may wait until they have arrived."""

    def log(self, step: int, row: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run."""

    folder: Path
    project: str
    name: str
    settings: Mapping[str, Any]
    start: int = 0
    """Steps done before: what was tracked beyond them will come again."""
    known: str | None = None
    """The tracker's own name of a run that goes on."""


def check_trackers(names: Sequence[str]) -> None:
    """Say, before anything starts, which library is missing.

    Raises:
        UserError: a named tracker's library is not installed.
    """
    for name in names:
        spec = importlib.util.find_spec(PACKAGES[name])
        # A folder of that name in the working directory (wandb makes one) looks like a package without an origin.
        if spec is None or spec.origin is None:
            raise UserError(f"{name} is not installed: pip install 'rlrp[{name}]'", place="tracking.to")


class Trackers:
    """All of a run's trackers. One that fails is reported once and does not stop the run: ``metrics.jsonl`` has all."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        project: str = "rlrp",
        name: str = "run",
        settings: Mapping[str, Any] | None = None,
        start: int = 0,
    ):
        check_trackers(names)
        note = folder / NOTE
        known: dict[str, str] = dict(read_json(note)) if start and note.exists() else {}
        self.open: dict[str, Tracker] = {}
        self.failing: set[str] = set()
        for kind in names:
            run = TrackedRun(folder, project, name, settings or {}, start, known.get(kind))
            try:
                self.open[kind], identity = _OPEN[kind](run)
            except Exception as error:  # each library has errors of its own: no key, no server, no such project
                self.close()
                raise UserError(f"{kind}: {first_line(error, 200)}", place="tracking.to") from error
            if identity:
                known[kind] = identity
        if known:
            write_json(note, known)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        for kind, tracker in self.open.items():
            self._try(kind, lambda tracker=tracker: tracker.log(step, row))  # type: ignore[misc]

    def close(self) -> None:
        for kind, tracker in self.open.items():
            self._try(kind, tracker.close)

    def _try(self, kind: str, act: Callable[[], None]) -> None:
        try:
            act()
            self.failing.discard(kind)
        except Exception as error:  # a server that is gone for an hour is no reason to lose the run
            if kind not in self.failing:
                print(f"{kind}: {first_line(error, 200)}; the run goes on without it", file=sys.stderr, flush=True)
            self.failing.add(kind)


class _TensorBoard:
    def __init__(self, run: TrackedRun):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder), purge_step=run.start + 1)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, run: TrackedRun, identity: str):
        import wandb

        self.run = wandb.init(
            project=run.project,
            name=run.name,
            id=identity,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
        )
        # Steps that are done again after a resume are lower than wandb's own counter, which would drop them.
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.run.log({"step": step, **row})

    def close(self) -> None:
        self.run.finish()


class _Mlflow:
    def __init__(self, run: TrackedRun):
        import mlflow

        # Beside the run unless the user names a server: a job's working directory is gone when it ends.
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run.folder / 'mlflow.db').absolute()}"
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        if run.known:
            self.identity = run.known
            self.client.update_run(self.identity, status="RUNNING")
            return
        found = self.client.get_experiment_by_name(run.project)
        experiment = found.experiment_id if found else self.client.create_experiment(run.project)
        self.identity = self.client.create_run(experiment, run_name=run.name).info.run_id
        for key, value in _flat(run.settings).items():
            self.client.log_param(self.identity, key, value)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.identity, [Metric(name, value, now, step) for name, value in row.items()])

    def close(self) -> None:
        self.client.set_terminated(self.identity)


class _Trackio:
    def __init__(self, run: TrackedRun, name: str):
        import trackio

        resume = "allow" if run.known else "never"
        self.run = trackio.init(run.project, name=name, config=dict(run.settings), resume=resume, embed=False)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step)

    def close(self) -> None:
        self.run.finish()


def _open_tensorboard(run: TrackedRun) -> tuple[Tracker, str | None]:
    return _TensorBoard(run), None


def _open_wandb(run: TrackedRun) -> tuple[Tracker, str | None]:
    identity = run.known or uuid.uuid4().hex[:12]
    return _Wandb(run, identity), identity


def _open_mlflow(run: TrackedRun) -> tuple[Tracker, str | None]:
    tracker = _Mlflow(run)
    return tracker, tracker.identity


def _open_trackio(run: TrackedRun) -> tuple[Tracker, str | None]:
    # Trackio knows a run by its name alone.
    name = run.known or f"{run.name}-{uuid.uuid4().hex[:6]}"
    return _Trackio(run, name), name


def _open_ray(run: TrackedRun) -> tuple[Tracker, str | None]:
    from rlrp.runtime.gauges import RayGauges

    return RayGauges(run.name), None


_OPEN: dict[str, Callable[[TrackedRun], tuple[Tracker, str | None]]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
    "trackio": _open_trackio,
    "ray": _open_ray,
}


def finite(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row that trackers can draw."""
    return {k: float(v) for k, v in row.items() if isinstance(v, int | float) and math.isfinite(v)}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)[:250]}
    return flat

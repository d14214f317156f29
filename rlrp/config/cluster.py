"""The sections on where workers run and where numbers go."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlrp.config.base import Settings


class WorkerConfig(Settings):
    """A pool of Ray actors and what each asks of the cluster."""

    actors: int = Field(1, ge=1)
    cpus: float = Field(0.5, ge=0)
    """Logical CPUs per actor."""
    gpus: float = Field(0, ge=0)
    """GPUs per actor; a fraction shares one."""
    threads: int | None = Field(None, ge=1)
    """torch threads per actor; null takes the machine's cores divided by the actors of the pool."""
    memory_gb: float | None = Field(None, gt=0)
    max_actors: int | None = Field(None, ge=1)
    """The pool grows up to so many while work waits, as an autoscaling cluster makes room; null: it does not grow."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources that each actor asks for, such as ``{"L40S": 0.5}``."""
    timeout_s: float | None = Field(None, gt=0)
    """A call that takes longer has lost its actor: another is started and does it again; null waits."""

    @model_validator(mode="after")
    def _grows(self) -> WorkerConfig:
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors: got {self.max_actors}, expected at least actors ({self.actors}) or null")
        return self


class NodeConfig(Settings):
    """Machines of a cluster that is not there yet, for ``--dry-run``."""

    count: int = Field(1, ge=1)
    """How many of them."""
    cpus: float = Field(gt=0)
    gpus: int = Field(0, ge=0)
    memory_gb: float | None = Field(None, gt=0)
    """Memory of the machine."""
    gpu_memory_gb: float | None = Field(None, gt=0)
    """Memory of one GPU."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Resources of the cluster's own."""


class ClusterConfig(Settings):
    """Where workers run. Ray starts itself on this machine unless RAY_ADDRESS or a job names a cluster."""

    rollout: WorkerConfig = WorkerConfig()
    reward: WorkerConfig = WorkerConfig()
    learner: WorkerConfig = WorkerConfig()
    max_restarts: int = Field(8, ge=0)
    """How often in a row an actor in one place, or the learner, is started again with no work done in between."""
    max_tries: int = Field(3, ge=1)
    """A prompt over which so many actors died is given up, and reported as quarantined."""
    straggler: float | None = Field(3.0, gt=1)
    """Work that takes so many times what its like takes is also given to an idle actor, and the first answer counts;
    null waits for it."""
    start_timeout_s: float = Field(1800, gt=0)
    """How long a run waits for room on the cluster, and a pool for its first actor."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] | None = None
    """Reserve the places of all actors together, packed on few nodes or spread over many (Ray's placement groups);
    null lets every actor find its own."""
    colocate: bool = False
    """Rollout actor i and learner worker i share a node, and a GPU where their ``gpus`` add up to at most one."""
    nodes: list[NodeConfig] = Field(default_factory=list)
    """The cluster that ``--dry-run`` checks the placement against, unless RAY_ADDRESS or ``--cluster`` names one."""

    @model_validator(mode="after")
    def _shares_bundles(self) -> ClusterConfig:
        if self.colocate and self.placement is None:
            raise ValueError("colocate: got true without a placement; set placement, such as PACK")
        return self


class TrackingConfig(Settings):
    """Where a run's numbers go beside its ``metrics.jsonl``."""

    to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(["tensorboard"])
    """Trackers by name; all but TensorBoard come as extras, such as ``rlrp[wandb]``. An empty list is none."""
    project: str = "rlrp"
    """The project (MLflow: the experiment) that the run appears in, under the run's ``name``."""

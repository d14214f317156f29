"""Models, undisturbed runs to compare with, and the end of whatever a test leaves running."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .runs import Run

MakeRun = Callable[..., Run]


LONGEST = ("test_driver_killed", "test_workers_killed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _ends_when_told() -> Iterator[None]:
    """SIGTERM ends the tests as Ctrl-C does: with the runs that they started."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random model with room for the shipped cards in bytes."""
    from tiny_models import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny"), max_position_embeddings=8192)


@pytest.fixture
def make_run(tmp_path: Path, tiny: str) -> Iterator[MakeRun]:
    """Runs in folders of their own, of the tiny model unless another is named; none outlives the test."""
    made: list[Run] = []

    def make(*overrides: str, model: str = tiny, **options: object) -> Run:
        made.append(Run(tmp_path / f"{len(made)}", model, *overrides, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for run in made:
        run.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    """The run of the same settings that nothing happened to."""
    done: dict[tuple[str, ...], Run] = {}

    def run(model: str, *overrides: str) -> Run:
        key = (model, *overrides)
        if key not in done:
            done[key] = Run(tmp_path_factory.mktemp("undisturbed"), model, *overrides).start()
        whole = done[key].end()
        metrics = whole.metrics()
        # A critic's first steps move the critic alone.
        norms = [row.get("grad_norm", row.get("critic_grad_norm", 0.0)) for row in metrics]
        assert min(norms) > 0 and metrics[-1]["kl"] > 0, "nothing was learnt: no evidence"
        return whole

    yield run
    for one in done.values():
        one.close()

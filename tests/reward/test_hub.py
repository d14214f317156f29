"""Rewards and models from the hub: what is fetched, what is refused. The hub itself is a folder of its cache here."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward.config import load_reward, reward_path
from reward.hub import _fetched, located
from rlrp.cli import main
from rlrp.errors import UserError


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository ``me/rewards`` as the hub's own cache keeps it; being offline, nothing else is looked at."""
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--me--rewards"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _fetched.cache_clear()
    return snapshot


def test_a_reward_from_the_hub_is_loaded(cached: Path) -> None:
    (cached / "small").mkdir()
    (cached / "small" / "reward.yaml").write_text("terms: {length: {weight: 0.3}}", encoding="utf-8")
    path = reward_path("hub:me/rewards/small")
    assert path.samefile(cached / "small" / "reward.yaml")
    assert [term.name for term, _, _ in load_reward(path).terms] == ["length"]
    assert located("hub:me/rewards@main").samefile(cached) and located("models/a", Path("/x")) == Path("/x/models/a")


def test_a_class_from_the_hub_is_refused(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "terms: {mine: {weight: 1, class: 'subprocess:Popen', options: {args: [touch, ran]}}}"
    (cached / "reward.yaml").write_text(text, encoding="utf-8")
    assert main(["reward", "inspect", "hub:me/rewards"]) == 2
    assert "terms.mine.class: a reward from the hub may not name a class" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("hub:rewards", "expected hub:OWNER/NAME"),
        ("hub:me/rewards/../../etc", "expected hub:OWNER/NAME"),
        ("hub:me/others", "hub:me/others: cannot be fetched from the hub"),
    ],
)
def test_what_cannot_be_fetched_is_named(cached: Path, spec: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        located(spec)
    assert told in str(error.value)

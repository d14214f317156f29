from pathlib import Path

import pytest

from rlrp.dialogue import resolve
from rlrp.errors import UserError


def test_builtin_points_into_the_package():
    assert resolve("builtin:cards/en").is_dir()
    assert resolve("builtin:splits.json").is_file()


@pytest.mark.parametrize(
    ("path", "named"),
    [("builtin:cards/fr", "builtin:cards/en, builtin:cards/zh"), ("builtin:nothing", "builtin:cards")],
)
def test_missing_builtin_lists_what_there_is(path: str, named: str):
    with pytest.raises(UserError, match=named) as error:
        resolve(path)
    assert str(error.value).startswith(path)


def test_builtin_does_not_leave_the_data_folder():
    with pytest.raises(UserError, match="builtin:cards"):
        resolve("builtin:../dialogue")


def test_other_paths_are_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve("mine.jsonl").samefile(tmp_path / "mine.jsonl")
    with pytest.raises(UserError, match=r"yours\.jsonl: no such file"):
        resolve("yours.jsonl")

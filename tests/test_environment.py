"""Variables that the user set are never changed: not by the command, not anywhere in the code."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlrp.cli import _quiet_libraries

ROOT = Path(__file__).parents[1]
OURS = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed while executing a task by an unexpected system error",
}


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*OURS, "RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    users = {name: "theirs" for name in (*OURS, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")}
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    _quiet_libraries()
    assert {name: os.environ[name] for name in users} == users


def test_defaults_where_nobody_said_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    _quiet_libraries()
    assert {name: os.environ[name] for name in OURS} == OURS
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ  # a cluster's nodes must see each other


def overrides(tree: ast.AST) -> Iterator[int]:
    """Lines that set or remove variables of this process other than by ``setdefault``."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        targets = [node.target] if isinstance(node, ast.AugAssign) else targets
        for target in targets:
            if isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith("environ"):
                yield node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on, method = ast.unparse(node.func.value), node.func.attr
            if (on.endswith("environ") and method in ("update", "pop", "clear", "popitem")) or (
                on == "os" and method in ("putenv", "unsetenv")
            ):
                yield node.lineno


def test_the_scan_finds_what_it_looks_for() -> None:
    bad = "os.environ['A'] = 'b'\ndel os.environ['A']\nos.environ.update(x)\nos.putenv('A', 'b')\n"
    assert list(overrides(ast.parse(bad))) == [1, 2, 3, 4]
    assert list(overrides(ast.parse("os.environ.setdefault('A', 'b')\nenv = {**os.environ, 'A': 'b'}\n"))) == []


def test_no_code_overrides_a_variable() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for room in ("rlrp", "reward")
        for path in (ROOT / room).rglob("*.py")
        for line in overrides(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()

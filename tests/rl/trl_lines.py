"""TRL's own lines as an oracle where no function of theirs can be called alone."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import torch


def trl_lines(trainer: Any, begin: str, end: str, names: dict[str, Any], result: str = "advantages") -> torch.Tensor:
    """Runs TRL's own lines of ``_generate_and_score_completions`` from one text to another, for their ``result``."""
    source = inspect.getsource(trainer._generate_and_score_completions)
    first = source.rindex("\n", 0, source.index(begin)) + 1
    last = source.rindex("\n", 0, source.index(end, first)) + 1
    namespace = vars(inspect.getmodule(trainer)) | names
    exec(textwrap.dedent(source[first:last]), namespace)
    found: torch.Tensor = namespace[result]
    return found

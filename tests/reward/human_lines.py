"""Human-written lines from the data folder beside the repository, for measuring false positives; nothing is copied."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from reward.validation.public_data import HUMAN_LINES

SHARED = Path(os.environ.get("RLRP_SHARED", Path(__file__).parents[2] / ".." / "shared")) / "data"
SOURCES = {name: (language, partial(lines, SHARED)) for name, (language, _, lines) in HUMAN_LINES.items()}

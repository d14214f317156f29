"""Where a reward or a model directory is: beside the file that names it, or on the Hugging Face hub (``hub:``)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from rlrp.errors import UserError

HUB = "hub:"
_SPEC = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-]+))?(?P<inside>(?:/[\w.-]+)*)")
_WANTED = ("*.json", "*.safetensors", "*.yaml", "*.jsonl", "*.md", "*.txt", "*.model")
"""What may be fetched: data, and nothing that is code or a pickle."""


def located(spec: str | Path, beside: Path = Path()) -> Path:
    """The path that ``spec`` names: ``hub:OWNER/NAME[@REVISION][/FOLDER]`` fetched into the hub's cache, anything else
    relative to ``beside``.

    Raises:
        UserError: not such a spec, or a repository that cannot be fetched.
    """
    text = str(spec)
    if not text.startswith(HUB):
        return beside / text
    found = _SPEC.fullmatch(text.removeprefix(HUB))
    if found is None or ".." in text:
        raise UserError(f"got {text!r}, expected {HUB}OWNER/NAME, {HUB}OWNER/NAME@REVISION or {HUB}OWNER/NAME/FOLDER")
    return _fetched(found["repo"], found["revision"]) / found["inside"].strip("/")


@lru_cache
def _fetched(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        told = str(error).strip().splitlines()[0]
        raise UserError(f"cannot be fetched from the hub: {told}", file=f"{HUB}{repo}") from None

"""Where a path in a setting points to: a file of the user's, or one that ships with rlrp (``builtin:``)."""

from __future__ import annotations

from pathlib import Path

from rlrp.errors import UserError

BUILTIN = "builtin:"
DATA = Path(__file__).resolve().parents[1] / "data"


def resolve(path: str | Path) -> Path:
    """The file or folder that ``path`` names.

    ``builtin:cards/en`` is inside the data that ships with rlrp; anything else is relative to the current
    directory, with ``~`` for the user's home.

    Raises:
        UserError: there is no such file; for ``builtin:`` it lists what there is.
    """
    text = str(path)
    if not text.startswith(BUILTIN):
        found = Path(text).expanduser()
        if not found.exists():
            raise UserError(f"no such file or folder (looked in {Path.cwd()})", file=text)
        return found
    inside = text.removeprefix(BUILTIN).strip("/")
    target = DATA / inside
    if ".." in Path(inside).parts or not target.exists():
        raise UserError(f"no such built-in data; there is {_listing(inside)}", file=text)
    return target


def _listing(inside: str) -> str:
    """What the deepest existing folder on the way to ``inside`` holds, as ``builtin:`` paths."""
    folder = DATA
    for part in Path(inside).parts:
        if part == ".." or not (folder / part).is_dir():
            break
        folder /= part
    names = sorted(
        item.relative_to(DATA).as_posix()
        for item in folder.iterdir()
        if not item.name.startswith((".", "__")) and item.suffix != ".md"
    )
    shown = ", ".join(BUILTIN + name for name in names[:12])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 12 else shown

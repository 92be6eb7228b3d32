"""Which commit measured it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def commit() -> str | None:
    """Read which commit the package is of, where it lies in a checkout; None elsewhere."""
    git = Path(str(files("collapsekit"))).parent / ".git"
    try:
        if git.is_file():  # of a worktree
            git = Path(git.read_text().removeprefix("gitdir:").strip())
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:12]
        common = git / "commondir"
        root = git / common.read_text().strip() if common.exists() else git
        ref = head.removeprefix("ref: ")
        loose = root / ref
        if loose.exists():
            return loose.read_text().strip()[:12]
        packed = (line.split() for line in (root / "packed-refs").read_text().splitlines())
        return next((line[0][:12] for line in packed if line[-1] == ref), None)
    except OSError:
        return None

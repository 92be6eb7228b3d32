"""Checkpoints in the local cache of huggingface_hub, by name (`hf://ORG/NAME`) or as the cache's own folder of a model.

Nothing is downloaded: what is not in the cache is left to `hf download`, so that no run depends on a network, and none
brings weights that nobody looked at.
"""

from __future__ import annotations

import re
from pathlib import Path

from collapsekit.errors import ConfigError
from collapsekit.io.safe_text import quote

SCHEME = "hf:/"  # a Path folds the two slashes of hf:// into one
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{_PART}))?(?:/(?P<file>.+))?")
_FOLDER = re.compile(rf"models--(?P<org>{_PART}?)--(?P<name>{_PART})")
_REVISION = re.compile(_PART)


def is_hub_name(path: str | Path) -> bool:
    """Tell a name on the Hugging Face hub from a path."""
    return str(path).startswith(SCHEME)


def shown_as(path: str | Path) -> str:
    """Return a path as it was typed: of a name on the hub, the slashes that a Path folds."""
    return "hf://" + str(path).removeprefix(SCHEME).lstrip("/") if is_hub_name(path) else str(path)


def locate(path: str | Path) -> Path:
    """Find where a checkpoint lies.

    Args:
        path: of a file or folder, which is given back; `hf://ORG/NAME`, with `@REVISION` or `/FILE` behind it; or a folder
            models--ORG--NAME of the hub's cache.

    Returns:
        The file or folder: of the hub's, the snapshot of the revision, or of what was downloaded as main.

    Raises:
        ConfigError: for a name that is none, one that is not in the cache, or where huggingface_hub is not installed.
    """
    if is_hub_name(path):
        return _cached(str(path))
    folder = Path(path)
    try:
        cached = _FOLDER.fullmatch(folder.name) is not None and (folder / "snapshots").is_dir()
    except (OSError, ValueError):  # a name that no file can have: whoever reads it says so
        cached = False
    return _snapshot_in(folder) if cached else folder


def name_of(path: Path) -> str:
    """Return what to call a checkpoint in a report: the name of its file or folder, or ORG/NAME of the hub's snapshot."""
    above = path.parent
    found = _FOLDER.fullmatch(above.parent.name) if above.name == "snapshots" else None
    return f"{found['org']}/{found['name']}" if found else path.name


def reference_to(path: Path) -> str | None:
    """Return `hf://ORG/NAME@REVISION` for a snapshot that is found by that name; None for any other path."""
    if name_of(path) == path.name:
        return None
    name = f"hf://{name_of(path)}@{path.name}"
    try:
        return name if locate(name).samefile(path) else None
    except (ConfigError, OSError):
        return None


def _cached(text: str) -> Path:
    name = shown_as(text)
    found = _NAME.fullmatch(name.removeprefix("hf://"))
    if found is None or "--" in found["repo"] or ".." in name or not _is_inside(found["file"]):
        raise ConfigError(
            f"{quote(name)} is no name of a checkpoint on the hub: write hf://ORG/NAME, hf://ORG/NAME@REVISION or "
            "hf://ORG/NAME/FILE."
        )
    try:
        from huggingface_hub import snapshot_download, try_to_load_from_cache
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise ConfigError(
            f"{name} is looked up by huggingface_hub, which is not installed: install it, or give the path of the file."
        ) from None
    repo, revision, file = found["repo"], found["revision"], found["file"]
    if file is not None:
        at = try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(at, str):
            return Path(at)
        raise ConfigError(_absent(name, f"{repo} {file}", revision))
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise ConfigError(_absent(name, repo, revision)) from None


def _is_inside(file: str | None) -> bool:
    """Whether a file's path within a repository leads to no other place."""
    return file is None or all(p not in ("", ".", "..") and not {"\\", "\0"} & set(p) for p in file.split("/"))


def _absent(name: str, what: str, revision: str | None) -> str:
    more = "" if revision is None else f" --revision {revision}"
    return f"{name} is not in the local cache, and nothing is downloaded here: run `hf download {what}{more}` first."


def _snapshot_in(folder: Path) -> Path:
    """The snapshot of main in a model's folder of the cache, or the only one."""
    try:
        ref = (folder / "refs" / "main").read_bytes()[:200].decode("ascii", "replace").strip()
    except OSError:
        ref = ""
    there = sorted(p.name for p in (folder / "snapshots").iterdir() if p.is_dir())
    if _REVISION.fullmatch(ref) and ref in there:
        return folder / "snapshots" / ref
    if len(there) == 1:
        return folder / "snapshots" / there[0]
    listed = ", ".join(quote(name, 60) for name in there[:4]) or "none"
    raise ConfigError(
        f"{folder} is a folder of the hub's cache with {len(there)} snapshots ({listed}) and no refs/main: give the "
        "folder of one of them."
    )

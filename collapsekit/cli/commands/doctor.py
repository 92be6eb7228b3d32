"""collapsekit doctor."""

from __future__ import annotations

import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from collapsekit.cli.output import write
from collapsekit.cli.terminal import Ended, guarded, need_working_directory

NAME = re.compile(r"[A-Za-z0-9._-]+")
PLUGIN = "collapsekit-"  # how the names of our own plugins' packages begin
EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


@guarded
def doctor() -> Ended:
    """Show versions, devices and disk, and what is missing for which extra."""
    need_working_directory()
    from collapsekit.readouts.cache import cache_folder
    from collapsekit.version import __version__

    lines = [f"collapsekit  {__version__}", f"python       {platform.python_version()}"]
    lines.append(f"system       {platform.platform()}")
    found, missing = _requirements()
    lines += [*found, _devices(), _disk("here", Path.cwd()), _disk("cache", _existing(cache_folder()))]
    if missing:
        lines += ["", f"Missing for collapsekit itself: {', '.join(missing)}. Install them: pip install collapsekit"]
    return Ended(2 if missing else 0, lambda: write("\n".join(lines) + "\n"))


def _disk(what: str, folder: Path) -> str:
    return f"disk {what:<7} {shutil.disk_usage(folder).free / 2**30:.1f} GiB free at {folder}"


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())


def _requirements() -> tuple[list[str], list[str]]:
    """A line on every dependency's version, by extra; and names of missing core ones."""
    by_extra: dict[str, list[tuple[str, str | None]]] = {}
    for line in requires("collapsekit") or []:
        found, marker = NAME.match(line), EXTRA.search(line)
        if found:
            name = found.group()
            by_extra.setdefault(marker.group(1) if marker else "", []).append((name, _version(name)))
    core = by_extra.pop("", [])
    lines = [f"{package:<12} {installed or 'MISSING'}" for package, installed in core]
    for extra, packages in sorted(by_extra.items()):
        lacking = [name for name, installed in packages if installed is None]
        state = f"missing {', '.join(lacking)}: {_remedy(extra, lacking)}" if lacking else "complete"
        lines.append(f"extra {extra:<12} {state}")
    return lines, [package for package, version_ in core if version_ is None]


def _remedy(extra: str, lacking: list[str]) -> str:
    """What to type; plugins are not published, and somebody else may take their names where pip would look."""
    ours = [name.removeprefix(PLUGIN) for name in lacking if name.startswith(PLUGIN)]
    if ours:
        return f"pip install {' '.join(f'./plugins/{name}' for name in ours)}, in a checkout"
    return f"pip install 'collapsekit[{extra}]'"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> str:
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    for i in range(torch.cuda.device_count()):
        devices.append(f"cuda:{i} {torch.cuda.get_device_name(i)}")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return f"devices      {'; '.join(devices)}"

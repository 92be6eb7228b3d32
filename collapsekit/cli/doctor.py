"""collapsekit doctor."""

from __future__ import annotations

import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import typer

from collapsekit.cli.terminal import guarded

NAME = re.compile(r"[A-Za-z0-9._-]+")
EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


@guarded
def doctor() -> None:
    """Show versions, devices and disk, and what is missing for which extra."""
    from collapsekit import __version__
    from collapsekit.baseline_cache import cache_folder

    typer.echo(
        f"collapsekit  {__version__}\npython       {platform.python_version()}\nsystem       {platform.platform()}"
    )
    missing = _requirements()
    _devices()
    for what, folder in (("here", Path.cwd()), ("cache", _existing(cache_folder()))):
        free = shutil.disk_usage(folder).free / 2**30
        typer.echo(f"disk {what:<7} {free:.1f} GiB free at {folder}")
    if missing:
        typer.echo(f"\nMissing for collapsekit itself: {', '.join(missing)}. Install them: pip install collapsekit")
        raise typer.Exit(2)


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())


def _requirements() -> list[str]:
    """Print every dependency's version by extra; names of missing core ones."""
    by_extra: dict[str, list[tuple[str, str | None]]] = {}
    for line in requires("collapsekit") or []:
        found, marker = NAME.match(line), EXTRA.search(line)
        if found:
            name = found.group()
            by_extra.setdefault(marker.group(1) if marker else "", []).append((name, _version(name)))
    core = by_extra.pop("", [])
    for package, installed in core:
        typer.echo(f"{package:<12} {installed or 'MISSING'}")
    for extra, packages in sorted(by_extra.items()):
        lacking = [name for name, installed in packages if installed is None]
        state = f"missing {', '.join(lacking)}: pip install 'collapsekit[{extra}]'" if lacking else "complete"
        typer.echo(f"extra {extra:<6} {state}")
    return [package for package, version_ in core if version_ is None]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> None:
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    for i in range(torch.cuda.device_count()):
        devices.append(f"cuda:{i} {torch.cuda.get_device_name(i)}")
    if torch.backends.mps.is_available():
        devices.append("mps")
    typer.echo(f"devices      {'; '.join(devices)}")

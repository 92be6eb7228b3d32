"""The command line that makes a report again."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collapsekit.checkpoint.read import Checkpoint
from collapsekit.config.discovery import nearest_config, path_from_here
from collapsekit.config.schema import Config
from collapsekit.errors import ConfigError


def command_line(
    config: Config,
    read: Checkpoint | None,
    flags: Mapping[str, Any],
    probes: Sequence[str],
    skip: Sequence[str],
    plugins: Sequence[str | Path],
    options: Mapping[str, Mapping[str, Any]],
) -> str | None:
    """``collapsekit diagnose ...`` as it is typed in the same working directory; None for a config that was made in
    Python, which no command line can name."""
    if config.file is None or read is None:
        return None
    words = ["collapsekit", "diagnose", path_from_here(read.path)]
    if not _found_without_name(config.file):
        words += ["--config", path_from_here(config.file)]
    for name, value in flags.items():
        if value is not None and (name, value) != ("device", "cpu"):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    for flag, values in (("--probe", probes), ("--skip", skip), ("--plugin", map(path_from_here, plugins))):
        words += [w for value in values for w in (flag, value)]
    for probe, chosen in options.items():
        for option, value in chosen.items():
            words += ["--set", f"{probe}.{option}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _found_without_name(file: Path) -> bool:
    with contextlib.suppress(ConfigError):  # what lies nearer cannot be read, or is somebody else's
        found = nearest_config()
        return found is not None and path_from_here(found) == path_from_here(file)
    return False

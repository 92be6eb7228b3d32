"""The command line that makes a report again."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from collapsekit.checkpoint.read import Checkpoint
from collapsekit.config.discovery import nearest_config, path_from_here
from collapsekit.config.fields import flag_of, kinds_of, word_of
from collapsekit.config.options import RECORDED, CommandOptions, DiagnoseOptions
from collapsekit.config.schema import Config
from collapsekit.errors import ConfigError
from collapsekit.io.hub import reference_to


def recorded(options: DiagnoseOptions, split: str) -> dict[str, Any]:
    """Return what a report's settings say of the options, by name; ``split``: the one that was diagnosed."""
    return {name: split if name == "split" else getattr(options, name) for name in RECORDED}


def command_line(config: Config, read: Checkpoint | None, options: DiagnoseOptions, split: str) -> str | None:
    """Write the command ``collapsekit diagnose ...`` as it is typed in the same working directory.

    Args:
        config: The config.
        read: The checkpoint that was read; None where there was none.
        options: The options of the call.
        split: The split that was diagnosed.

    Returns:
        The line; None for a config or a model that was made in Python, which no command line can name.
    """
    if config.file is None or read is None:
        return None
    words = ["collapsekit", "diagnose", reference_to(read.path) or path_from_here(read.path)]
    if not _found_without_name(config.file):
        words += ["--config", path_from_here(config.file)]
    words += words_of(options.model_copy(update={"split": split}))
    return shlex.join(words)


def words_of(options: CommandOptions, *, brief: bool = False) -> list[str]:
    """Return the options as they are typed: those that a report records, other single values, lists, options of probes.

    ``brief``: only those that are not as they are by default.
    """
    fields, changed = type(options).model_fields, options.changed()

    def rank(name: str) -> int:
        value = getattr(options, name)
        single = RECORDED.index(name) if name in RECORDED else len(RECORDED)
        return len(RECORDED) + 2 if isinstance(value, Mapping) else single + isinstance(value, tuple)

    found: list[str] = []
    for name in sorted(fields, key=rank):
        flag = flag_of(fields[name])
        if flag is not None and ((flag.again == "always" and not brief) or (flag.again != "never" and name in changed)):
            found += _words(word_of(type(options), name), getattr(options, name), fields[name])
    return found


def _words(word: str, value: Any, field: FieldInfo) -> list[str]:
    """An option with its value, or with each of its values."""
    if isinstance(value, bool):
        return [word if value else f"--no-{word.removeprefix('--')}"]
    if isinstance(value, Mapping):
        texts = [
            f"{name}.{option}={one if isinstance(one, str) else json.dumps(one)}"
            for name, options in value.items()
            for option, one in options.items()
        ]
    else:
        paths = Path in kinds_of(next(iter(get_args(field.annotation)), None)) or Path in kinds_of(field.annotation)
        texts = [
            path_from_here(one) if paths else str(one) for one in (value if isinstance(value, tuple) else (value,))
        ]
    return [part for text in texts for part in (word, text)]


def _found_without_name(file: Path) -> bool:
    with contextlib.suppress(ConfigError):  # what lies nearer cannot be read, or is somebody else's
        found = nearest_config()
        return found is not None and path_from_here(found) == path_from_here(file)
    return False

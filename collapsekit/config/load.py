"""Reads a config from a file, checks it, and says what is wrong in one sentence."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from collapsekit.config.schema import _OURS, CONFIG_NAME, Config, ModalityConfig, SubsetConfig
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.files import read_text, reason
from collapsekit.io.limits import check_plain
from collapsekit.io.safe_text import inline, quote
from collapsekit.io.yaml import MAX_BYTES, MAX_VALUES, parse_yaml

_MAX_PARTS = 32


_PART = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""


_LONG_KEY = re.compile(rf"(?:{_PART}[ \t]*+\.[ \t]*+){{{_MAX_PARTS}}}")


def _text(path: Path) -> str:
    try:
        return read_text(path, MAX_BYTES)
    except OSError as e:
        raise ConfigError(f"config {path} cannot be read: {reason(e)}.") from None


def pyproject_section(path: Path) -> Any:
    """Return the ``[tool.collapsekit]`` table, None where there is none.

    Raises ConfigError where the file cannot be read.
    """
    text = _text(path)
    # tomllib takes time quadratic in the parts of a dotted key: minutes for one of a megabyte.
    long_key = _LONG_KEY.search(text)
    if long_key:
        raise ConfigError(f"{path} has a dotted key of more than {_MAX_PARTS} parts, {quote(long_key[0], 20)}.")
    try:
        tool = tomllib.loads(text).get("tool")
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: it is nested too deeply.") from None
    except ValueError as e:  # TOMLDecodeError, or int's for a number of too many digits
        raise ConfigError(f"{path} is not valid TOML: {inline(str(e), 200)}.") from None
    return tool.get("collapsekit") if isinstance(tool, dict) else None


def load_config(path: str | Path) -> Config:
    """Read and check a config file. Raises ConfigError that names the key and the nearest known one."""
    file = Path(path)
    if file.suffix == ".toml":
        raw = pyproject_section(file)
        if raw is None:
            raise ConfigError(f"{file} has no [tool.collapsekit] table: add one, or name a {CONFIG_NAME}.")
    else:
        raw = parse_yaml(_text(file), str(file))
    return check_config(raw, base=file.resolve().parent, origin=str(file), file=file.absolute())


def check_config(raw: Any, *, base: Path, origin: str = "config", file: Path | None = None) -> Config:
    """Check a mapping as Config.

    Args:
        raw: what the file holds.
        base: the folder that its paths are relative to.
        origin: what to call it in messages.
        file: where it was read; None where it was made in Python.

    Returns:
        The config.

    Raises:
        ConfigError: for unknown keys, wrong types and missing sections.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{origin} holds {type(raw).__name__}, expected keys such as model, modalities, data.")
    for key in _OURS:
        if key in raw:
            raise ConfigError(f"{origin} has an unknown key {key!r}: known there are {', '.join(_keys_at([]))}.")
    try:
        check_plain(raw, values=MAX_VALUES)
        return Config.model_validate({**raw, "base": base, "origin": origin, "file": file})
    except ValidationError as e:
        raise ConfigError(_explain(e, origin)) from None
    except ValueError as e:
        raise ConfigError(f"{origin} cannot be used: {e}.") from None


def _explain(error: ValidationError, origin: str) -> str:
    found_wrong = error.errors()
    # A misspelt key is also a missing one: the misspelling is what helps.
    first = next((e for e in found_wrong if e["type"] == "extra_forbidden"), found_wrong[0])
    loc = [str(p)[:80] for p in first["loc"]]
    where = quote(".".join(loc), 200)
    if first["type"] == "extra_forbidden":
        known = _keys_at(loc[:-1])
        meant = _section_of(loc) or did_you_mean(loc[-1], known)
        return f"{origin} has an unknown key {where}{meant}: known there are {', '.join(known)}."
    found = first.get("input")
    said = quote(found) if isinstance(found, str) else repr(found)
    said = f", found {said}" if isinstance(found, str | int | float | bool) else ""
    return f"{origin} at {where}: {inline(first['msg'].removeprefix('Value error, '), 600)}{said}."


def _section_of(loc: list[str]) -> str:
    """Say in which section a key belongs that stands at the top, where a section has it."""
    if len(loc) > 1:
        return ""
    sections = [s for s in _keys_at([]) if s != "subsets" and loc[0] in _keys_at([s])]
    return f" (it belongs in {' or '.join(map(repr, sections))})" if sections else ""


def _keys_at(loc: list[str]) -> list[str]:
    if not loc:
        return [k for k in Config.model_fields if k not in _OURS]
    if loc[0] in ("modalities", "subsets"):
        return list((ModalityConfig if loc[0] == "modalities" else SubsetConfig).model_fields)
    section = Config.model_fields[loc[0]].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []

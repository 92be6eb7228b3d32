"""What to do after a diagnosis as calls in Python: who has a report in a notebook has no shell at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from collapsekit.render.views._next import recorded_command, recorded_steps
from collapsekit.report.diagnosis import Report

# Words of a command that take a number, and those that may be there several times, as keywords.
_NUMBERS = {"--seed": "seed", "--limit": "limit", "--training-seed": "training_seed"}
_LISTS = {"--probe": "probes", "--skip": "skip"}
_UNNAMED = ("checkpoint", "--config", "config")  # names of the caller's own, for what no command can name
_FILES = "It takes the weights as a file, and a config that names model.factory:"


def recorded_calls(report: Report) -> Iterator[tuple[str, str]]:
    """List the steps that ``recorded_steps`` lists, each with its call.

    Where no command can name the model, the config or the data, `checkpoint`, `config`, `model` and `data` in a call are
    what the caller has under these names.

    Args:
        report: The diagnosis, which a call of the gate names `report`.

    Yields:
        The reason, a sentence, and the call; empty where there is none.
    """
    named = bool(recorded_command(report))
    for step in recorded_steps(report, _UNNAMED):
        name, words = step.command[1:2], step.command[2:]
        if name == ("gate",):
            yield step.about, _gate(report)
        elif name == ("repair",):
            taken = _keywords(words[1:], named) | {"output": "'repaired'"}
            about = step.about if named else f"{step.about} {_FILES}"
            yield about, _call("repair", repr(words[0]) if named else words[0], taken)
        elif name:
            taken = _keywords(words[1:], named)
            yield step.about, _call("diagnose", repr(words[0]) if named else _name_model(report, taken), taken)
        else:
            yield step.about, ""


def _gate(report: Report) -> str:
    """The gate of the report in hand, by the rules of its config: the function looks for no config."""
    config = report.settings.get("config")
    rules = config.get("gate") if isinstance(config, Mapping) else None
    ruled = [
        name for name in ("require", "baseline", "allow_partial") if isinstance(rules, Mapping) and rules.get(name)
    ]
    return _call("gate", "report", {name: f"report.settings['config']['gate']['{name}']" for name in ruled})


def _name_model(report: Report, taken: dict[str, str]) -> str:
    """What a diagnosis was given in Python; in memory the data are where the config names none."""
    config = report.settings.get("config")
    data = config.get("data") if isinstance(config, Mapping) else None
    if isinstance(data, Mapping) and data.get("path") is None and data.get("factory") is None:
        taken["data"] = "data"
    return "model=model" if report.subject.checkpoint.startswith("live ") else "checkpoint"


def _keywords(words: Sequence[str], named: bool) -> dict[str, str]:
    """Options and their values, as keywords and expressions."""
    found: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    options: dict[str, dict[str, Any]] = {}
    for option, value in zip(words[::2], words[1::2], strict=False):
        if option in _LISTS:
            several.setdefault(_LISTS[option], []).append(value)
        elif option == "--set":
            name, _, typed = value.partition("=")
            probe, _, key = name.partition(".")
            options.setdefault(probe, {})[key] = _number(typed)
        else:
            plain = (option in _NUMBERS and value.isdecimal()) or (option == "--config" and not named)
            found[_NUMBERS.get(option, option.removeprefix("--"))] = value if plain else repr(value)
    return (
        found
        | {name: repr(values) for name, values in several.items()}
        | ({"options": repr(options)} if options else {})
    )


def _number(text: str) -> float | str:
    """The number as it is typed, or the text that is none."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _call(name: str, first: str, keywords: Mapping[str, str]) -> str:
    return f"collapsekit.{name}({', '.join([first, *(f'{key}={value}' for key, value in keywords.items())])})"

"""Parameters of commands, made of the models of their options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from collapsekit.cli.completion import NAMES
from collapsekit.cli.terminal import Ended
from collapsekit.config.fields import bounds_of, flag_of, help_of, kinds_of, word_of
from collapsekit.config.flags import Flag
from collapsekit.config.options import CommandOptions
from collapsekit.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Ended])
Checkpoint = Annotated[
    Path | None, typer.Argument(help="Checkpoint, or hf://ORG/NAME; default: the config's model.checkpoint.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="A collapsekit.yaml or pyproject.toml.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no report on the terminal.")]
Headline = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and of the report only the headline.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Print all of the report, how long stages took, and where your own code raised an error.",
    ),
]
Detail = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also say how long stages took, and where your own code raised an error."),
]
Whole = Annotated[bool, typer.Option("--verbose", "-v", help="Print all of it, not only what fits on a screen.")]
HeadlineOnly = Annotated[bool, typer.Option("--quiet", "-q", help="Print one line.")]
LogTo = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="Append all that is said to this file, with times.")
]


@dataclass(frozen=True)
class Typed:
    """A field as it is typed; ``path``: its name, below those of the models that it is nested in."""

    path: tuple[str, ...]
    word: str
    field: FieldInfo
    flag: Flag
    help: str

    @property
    def kind(self) -> Any:
        """The type by which it is read: the first of a union."""
        return kinds_of(self.field.annotation)[0]

    @property
    def negated(self) -> bool:
        """Whether typing it says no to what is so by default."""
        return self.kind is bool and self.word.startswith("--no-")


def with_options(**behind: str) -> Callable[[Command], Command]:
    """Put the fields of each parameter that is a CommandOptions in its place, and make the model of what is typed for them.

    ``behind``: parameters that help shows elsewhere, each with the one that it stands behind.
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        models = {p.name: p.annotation for p in own.parameters.values() if _is_model(p.annotation)}
        typed = {name: typed_fields(model, command.__name__) for name, model in models.items()}

        @functools.wraps(command)
        def run(**words: Any) -> Ended:
            read = {name: values_of(fields, words) for name, fields in typed.items()}
            rest = {name: words[name] for name in own.parameters if name not in models}
            return command(**rest, **{name: model.make(**read[name]) for name, model in models.items()})

        shown = {
            one.name: one
            for p in own.parameters.values()
            for one in (map(_parameter, typed[p.name]) if p.name in typed else [p])
        }
        order = _ordered(list(shown), behind)
        parameters = [shown[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in order]
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run  # type: ignore[return-value]

    return decorate


def typed_fields(model: type[BaseModel], command: str) -> list[Typed]:
    """Return the fields that ``command`` takes: of its own model all with a Flag, of another's those that have a help
    for it.
    """
    borrowed = hasattr(Flag, command) and getattr(model, "command", command) != command
    found: list[Typed] = []
    for name, field in model.model_fields.items():
        flag = flag_of(field)
        if flag is None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested = typed_fields(field.annotation, command)
            found += [Typed((name, *one.path), one.word, one.field, one.flag, one.help) for one in nested]
        elif flag is not None and not (borrowed and getattr(flag, command) is None):
            found.append(Typed((name,), word_of(model, name), field, flag, help_of(field, flag, command)))
    return found


def values_of(fields: list[Typed], words: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by field of what was typed; where nothing was, the model's default stands. Raises ConfigError."""
    values: dict[str, Any] = {}
    for one in fields:
        typed = words[one.path[-1]]
        if typed is None or typed == []:
            continue
        place = values
        for part in one.path[:-1]:
            place = place.setdefault(part, {})
        place[one.path[-1]] = _read(one, typed)
    return values


def parse_set(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """Return ``probe.option=value`` pairs as options by probe. Raises ConfigError where one is not of that form."""
    from collapsekit.io.yaml import parse_yaml

    out: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        probe, dot, option = name.partition(".")
        if not equals or not dot or not probe or not option:
            raise ConfigError(f"--set {pair!r} is not of the form probe.option=value, e.g. vif.option=3.")
        out.setdefault(probe.strip(), {})[option.strip()] = parse_yaml(value, f"--set {name}")
    return out


def parse_numbers(pairs: list[str], word: str) -> dict[str, float]:
    """Return ``KIND=NUMBER`` pairs as numbers by kind. Raises ConfigError where one is not of that form."""
    found = {}
    for text in pairs:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"{word} {text!r} is not of the form KIND=NUMBER, e.g. use=0.1.") from None
    return found


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, CommandOptions)


def _ordered(names: list[str], behind: Mapping[str, str]) -> list[str]:
    for name, before in behind.items():
        names.remove(name)
        names.insert(names.index(before) + 1, name)
    return names


def _parameter(one: Typed) -> inspect.Parameter:
    """The parameter that typer makes an option of."""
    kind, default = _typer_type(one), one.field.default
    if one.kind is bool:
        words = one.word if default is False or one.negated else f"{one.word}/--no-{one.word.removeprefix('--')}"
        default = default and not one.negated
    else:
        words = one.word
        said = "{default" in one.flag.help or default is None or isinstance(default, tuple | dict)
        default = None if said else default
        kind = kind if default is not None else kind | None
    option: dict[str, Any] = {"help": one.help, "metavar": one.flag.metavar}
    if one.flag.bounded:
        option["min"] = bounds_of(one.field)[0]
    if one.flag.completes is not None:
        option["autocompletion"] = NAMES[one.flag.completes]
    info = typer.Option(words, *([one.flag.short] if one.flag.short else []), **option)
    return inspect.Parameter(
        one.path[-1], inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _typer_type(one: Typed) -> Any:
    kinds = kinds_of(one.field.annotation)
    origin = get_origin(one.kind)
    if origin is Literal:
        return StrEnum(one.path[-1].capitalize(), {value: value for value in get_args(one.kind)})  # typer's choices
    if origin is tuple:
        return list[Path] if Path in kinds_of(get_args(one.kind)[0]) else list[str]
    if origin is not None:  # a mapping
        return list[str]
    return Path if Path in kinds else one.kind


def _read(one: Typed, typed: Any) -> Any:
    """The field's value of what was typed."""
    if isinstance(typed, StrEnum):
        return typed.value
    if get_origin(one.kind) in (Mapping, dict):
        numbers = get_args(one.kind)[1] is float
        return parse_numbers(typed, one.word) if numbers else parse_set(typed)
    if one.negated:
        return not typed
    return typed if one.flag.factor == 1 else typed * one.flag.factor

"""collapsekit list."""

from __future__ import annotations

import textwrap
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.output import write
from collapsekit.cli.terminal import Ended, guarded, need_working_directory

if TYPE_CHECKING:
    from collapsekit.registry import ProbeSpec


class ListKind(StrEnum):
    """What can be listed."""

    all = "all"
    probes = "probes"
    adapters = "adapters"
    repairs = "repairs"
    tasks = "tasks"
    formats = "formats"


@guarded
def list_(
    kind: Annotated[ListKind, typer.Argument(help="What to list.")] = ListKind.all,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Definition, source, limits and options too.")
    ] = False,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with probes or adapters; repeatable.")] = None,
) -> Ended:
    """List probes (with definition and source), adapters, repairs, tasks and file formats."""
    from collapsekit import registry

    need_working_directory()
    if plugin:
        ROLES.start_child()
    registry.load_builtins()
    for path in plugin or []:
        registry.load_plugin_file(path)
    sections = {
        ListKind.probes: lambda: _probes(verbose),
        ListKind.adapters: _adapters,
        ListKind.repairs: lambda: _repairs(verbose),
        ListKind.tasks: _tasks,
        ListKind.formats: _formats,
    }
    wanted = list(sections) if kind is ListKind.all else [kind]
    blocks = []
    for name in wanted:
        title = [name.value.capitalize()] if kind is ListKind.all else []
        blocks.append("\n".join([*title, *(f"  {line}" if title else line for line in sections[name]())]))
    return Ended(show=lambda: write("\n\n".join(blocks) + "\n"))


def _entry(name: str, text: str, width: int = 16) -> list[str]:
    return textwrap.wrap(text, 76, initial_indent=f"{name:<{width}}", subsequent_indent=" " * width)


def _probes(verbose: bool) -> list[str]:
    from collapsekit.registry import PROBES

    out: list[str] = []
    for name in sorted(PROBES):
        asked = _when_asked(PROBES[name])
        can = "Can tell: " if verbose else ""
        out += _entry(name, can + PROBES[name].summary + asked) + _entry("", f"Source: {PROBES[name].source}.")
        if verbose:
            out += [*_details(PROBES[name]), ""]
    return out


def _when_asked(spec: ProbeSpec) -> str:
    if spec.default:
        return ""
    of_itself = f", or where the task is {' or '.join(spec.tasks)}" if spec.tasks else ""
    return f" (only when asked: -p {spec.name}{of_itself})"


def _details(spec: ProbeSpec) -> list[str]:
    trains = {"nothing": "nothing", "heads": "linear heads", "models": "linear heads; models unless --profile quick"}
    out = _entry("", f"Definition: {spec.definition}.") + _entry("", f"Cannot tell: {spec.cannot}.")
    out += _measures(spec.name)
    out += _entry("", f"Trains: {trains[spec.trains]}.")
    for option, field in spec.options.model_fields.items():
        out += _entry("", f"--set {spec.name}.{option}={_shown(field.default)}  {field.description or ''}")
    if spec.run.__module__.startswith("collapsekit."):
        out.append(f"{'':<16}More: docs/probes/{spec.name}.md")
    return out


def _measures(probe: str) -> list[str]:
    """What the probe's results are, their units and which way is better; and what single ones do not tell."""
    from collapsekit.measures import LOSS, METRIC, measures_of

    units = {LOSS: "task loss", METRIC: "task metric"}
    names: list[str] = []
    cannot: dict[str, list[str]] = {}
    for m in measures_of(probe):
        unit = units.get(m.unit or "", m.unit)
        ways = (unit, m.better and f"{m.better} is better", m.figure and f"drawn as {m.figure}")
        about = ", ".join(filter(None, ways))
        names.append(f"{m.name} ({about})" if about else m.name)
        if m.cannot is not None:
            cannot.setdefault(m.cannot, []).append(m.name)
    out = _entry("", f"Measures: {'; '.join(names)}.") if names else []
    for text, of in cannot.items():
        out += _entry("", f"Of {' and '.join(of)}: {text}.")
    return out


def _repairs(verbose: bool) -> list[str]:
    from collapsekit.registry import REPAIRS

    out: list[str] = []
    for name in sorted(REPAIRS):
        spec = REPAIRS[name]
        out += _entry(name, spec.summary) + _entry("", f"Source: {spec.source}.")
        if verbose:
            out += _entry("", f"Definition: {spec.define(spec.options())}")
            for option, field in spec.options.model_fields.items():
                out += _entry("", f"--set {name}.{option}={_shown(field.default)}  {field.description or ''}")
            out.append("")
    return out


def _shown(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)


def _adapters() -> list[str]:
    from collapsekit.io.safe_text import clean
    from collapsekit.registry import ADAPTERS, installed_plugins

    out = [line for name in sorted(ADAPTERS) for line in _entry(name, ADAPTERS[name].summary)]
    out += _entry("module:Class", "your own subclass of collapsekit.Adapter")
    for point in installed_plugins():
        out += _entry(clean(point.name), f"installed plugin ({clean(point.value)}); loaded when named")
    return out


def _tasks() -> list[str]:
    from collapsekit.registry import TASKS, task_names

    out = [line for name in task_names() for line in _entry(name, TASKS[name].summary)]
    return out + _entry("module:callable", "your own loss: (outputs, targets) -> one loss an example")


def _formats() -> list[str]:
    from collapsekit.checkpoint.formats.detect import FOLDERS, FORMATS

    out = _entry("checkpoints", ", ".join([*(f.name for f in FORMATS), *FOLDERS]))
    out += _entry("data", "safetensors, npz (SPLIT/NAME keys, or NAME beside `split`); a factory of loaders")
    return out + _entry("reports", "json, md, html, html-interactive, terminal; figures as svg, pdf, png")

"""collapsekit gate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.commands.diagnose import OUTPUT, check_outputs, write_report
from collapsekit.cli.options import ConfigFile, with_options
from collapsekit.cli.output import form_of, write
from collapsekit.cli.terminal import (
    Ended,
    guarded,
    need_working_directory,
    progress,
    say,
    screen,
    working_directory,
)
from collapsekit.config.fields import word_of
from collapsekit.config.options import DiagnoseOptions, GateOptions
from collapsekit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collapsekit.config.options import GateConfig
    from collapsekit.config.schema import Config
    from collapsekit.gating.criteria import Limits
    from collapsekit.report.diagnosis import Report
    from collapsekit.report.gate import GateReport

KINDS = ("text", "json", "markdown", "junit", "sarif", "github")


@guarded
@with_options(format_="baseline", situation="format_", training_seed="seed", output="limit")
def gate(
    subject: Annotated[
        Path | None,
        typer.Argument(
            metavar="REPORT.json|CKPT", help="A report, or a checkpoint to diagnose first; default: model.checkpoint."
        ),
    ] = None,
    *,
    criteria: GateOptions,
    format_: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", metavar="FORMAT[=FILE]", help=f"{', '.join(KINDS)}; repeatable; default: text."),
    ] = None,
    config: ConfigFile = None,
    options: DiagnoseOptions,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"CKPT: folder for its report; default: {OUTPUT}.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, and no message but which config is used.")
    ] = False,
) -> Ended:
    """Decide whether a model may ship: exit 0 passed, 1 failed, 5 inconclusive."""
    from collapsekit.config.discovery import config_line, find_config
    from collapsekit.gating.decide import decide
    from collapsekit.gating.inputs import read_subject
    from collapsekit.io.writable import check_file
    from collapsekit.report.baseline import Baseline

    wanted = parse_formats(format_ or [])
    for name, place in wanted:
        if place is not None:
            check_file(place, f"--format {name}={place}:")
    file, settled = _settled(config)
    against = criteria.baseline or (None if settled.gate.baseline is None else settled.resolve(settled.gate.baseline))
    limits = _limits(settled.gate, criteria)
    held = Baseline.load(against) if against is not None else None  # before minutes of diagnosis
    _check_kept(wanted, {"the report": subject, "the baseline": against, "the config": file})
    rules = criteria.require or settled.gate.require
    _check_rules(rules)
    report, code = read_subject(subject), 0
    if file is not None and report is not None:
        say(config_line(file, named=config is not None))
    if criteria.situation != "auto" and held is None:
        raise ConfigError(
            f"--situation {criteria.situation} needs a baseline to compare with: name one with --baseline."
        )
    if report is None:
        need_working_directory()
        check_outputs(output, None, False)
        chosen = find_config(config, subject, "gate")
        _check_named(rules or (), chosen)
        report, code = _diagnosed(subject, chosen, options, output, quiet)
    else:
        _check_plain(options, output, subject)
    partial = criteria.allow_partial or settled.gate.allow_partial
    result = decide(
        report, require=rules, baseline=held, limits=limits, situation=criteria.situation, allow_partial=partial
    )
    written = write_files(result, wanted)
    code = code if code and result.outcome != "failed" else result.exit_code
    return Ended(code, lambda: show(result, wanted, [] if quiet else written))


def parse_formats(given: list[str]) -> list[tuple[str, Path | None]]:
    """Split ``FORMAT`` and ``FORMAT=FILE`` into pairs; without any, it is text on stdout.

    Raises ConfigError for others, for two formats on stdout, and for two in one file.
    """
    pairs = []
    for text in given or ["text"]:
        name, equals, file = text.partition("=")
        if name not in KINDS:
            raise ConfigError(f"there is no format {name!r}{did_you_mean(name, KINDS)}: {', '.join(KINDS)}.")
        if equals and not file:
            raise ConfigError(f"--format {text!r} names no file after the =: write {name}=FILE, or {name} for stdout.")
        pairs.append((name, Path(file) if file else None))
    loose = [name for name, file in pairs if file is None]
    files = [os.path.realpath(file) for _, file in pairs if file is not None]
    twice = next((f for i, f in enumerate(files) if f in files[:i]), None)
    if twice is not None and not Path(twice).is_char_device():
        raise ConfigError(f"two formats would go to one file, {twice}: give each its own.")
    if len(loose) > 1:
        raise ConfigError(f"formats {' and '.join(loose)} would both go to stdout: write one as {loose[1]}=FILE.")
    return pairs


def _check_kept(wanted: list[tuple[str, Path | None]], read: Mapping[str, str | Path | None]) -> None:
    """Raises ConfigError where a format would be written over what the gate reads."""
    for what, path in read.items():
        for name, file in wanted:
            if path is not None and file is not None and os.path.realpath(path) == os.path.realpath(file):
                raise ConfigError(f"--format {name}={file} would be written over {what}: give it a file of its own.")


def write_files(result: GateReport, wanted: list[tuple[str, Path | None]]) -> list[Path]:
    """Write files of the formats that were asked for; of github, the step summary too, where the runner names a file
    for it.

    Returns the paths, without that of the summary.
    """
    from collapsekit import render
    from collapsekit.io.files import write_atomic

    files = [write_atomic(file, render.write(result, name)) for name, file in wanted if file is not None]
    if any(name == "github" for name, _ in wanted):
        _summarise(result)
    return files


def show(result: GateReport, wanted: list[tuple[str, Path | None]], written: list[Path]) -> None:
    """Print the format that goes to stdout, and say which files were written.

    Args:
        result: The outcome of the gate.
        wanted: Formats, each with its file; None: stdout.
        written: The files, which stderr names.
    """
    from collapsekit import render

    for name, file in wanted:
        if file is not None:
            continue
        if name == "text":
            screen(result)
        else:
            write(render.write(result, name), form_of(name))
    for file in written:
        say(f"Written: {file}")


def _summarise(result: GateReport) -> None:
    """Append to what $GITHUB_STEP_SUMMARY names, as the runner collects it from there."""
    from collapsekit.io.files import append_text
    from collapsekit.render.ci.github import step_summary

    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if file:
        append_text(Path(file), step_summary(result))


def _settled(config: Path | None) -> tuple[Path | None, Config]:
    """The config that is named, or the nearest one, and its file; of a report, there need not be one."""
    from collapsekit.config.discovery import find_config, nearest_config
    from collapsekit.config.load import load_config
    from collapsekit.config.schema import Config

    here = working_directory()
    if config is None and here is None:
        return None, Config()
    file = find_config(config, None) if config is not None else nearest_config()
    return file, load_config(file) if file is not None else Config(base=here or Path())


def _limits(ours: GateConfig, typed: GateOptions) -> Limits:
    """What the config says of the gate, and what was typed over it."""
    from collapsekit.gating.criteria import Limits

    named = {"watch": typed.watch or ours.watch, "alpha": ours.alpha if typed.alpha is None else typed.alpha}
    return Limits(
        margins={**ours.margins, **typed.margins},
        effects={**ours.effects, **typed.effects},
        **{name: value for name, value in named.items() if value is not None},  # type: ignore[arg-type]
    )


def _diagnosed(
    checkpoint: Path | None, config: Path, options: DiagnoseOptions, output: Path | None, quiet: bool
) -> tuple[Report, int]:
    """The report of a checkpoint, which is written too, and the code of what failed in it."""
    ROLES.start_child()
    with progress(quiet) as shown:
        from collapsekit.diagnosis import diagnose
        from collapsekit.probes.runner import fault_code

        report = diagnose(checkpoint, config=config, progress=shown, **options.keywords())
        files = write_report(report, output, None, False, None)
    if not quiet:
        say(f"Written: {', '.join(map(str, files))}")
    return report, fault_code(report)


def _check_plain(options: DiagnoseOptions, output: Path | None, report: Path | None) -> None:
    """Raises ConfigError for an option that only a diagnosis could follow."""
    changed = [word_of(DiagnoseOptions, name) for name in options.changed()] + ["--output"] * (output is not None)
    if changed:
        raise ConfigError(
            f"{changed[0]} is of a diagnosis, but {report} is a report that was made already: leave it out."
        )


def _check_rules(rules: tuple[str, ...] | None) -> None:
    """Before a diagnosis that takes minutes, say what is wrong with them."""
    from collapsekit.gating.rules.parser import parse_rule

    for rule in rules or ():
        parse_rule(rule)


def _check_named(rules: tuple[str, ...], config: Path) -> None:
    """Raises ConfigError for a rule about a modality that the checkpoint's config does not have, where that is known."""
    from collapsekit.config.load import load_config
    from collapsekit.gating.rules.evaluate import check_modalities

    if rules and (settled := load_config(config)).adapter == "module":
        check_modalities(rules, tuple(settled.modalities))

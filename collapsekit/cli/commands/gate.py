"""collapsekit gate."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.commands.diagnose import OUTPUT, ProfileChoice, TrainingSeed, check_outputs, write_report
from collapsekit.cli.output import form_of, write
from collapsekit.cli.terminal import (
    Ended,
    TrustPickle,
    guarded,
    need_working_directory,
    progress,
    say,
    screen,
    working_directory,
)
from collapsekit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collapsekit.config.schema import Config, GateConfig
    from collapsekit.gating.criteria import Limits
    from collapsekit.report.diagnosis import Report
    from collapsekit.report.gate import GateReport

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".metadata")
KINDS = ("text", "json", "markdown", "junit", "sarif", "github")


class Situation(StrEnum):
    """How a report relates to the baseline."""

    auto = "auto"
    paired = "paired"
    retrained = "retrained"


@guarded
def gate(
    subject: Annotated[
        Path | None,
        typer.Argument(
            metavar="REPORT.json|CKPT", help="A report, or a checkpoint to diagnose first; default: model.checkpoint."
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require", "-r", metavar="RULE", help="Rule the report has to meet; repeatable; replaces the config's."
        ),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", "-b", help="Baseline to hold the report against.")
    ] = None,
    format_: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", metavar="FORMAT[=FILE]", help=f"{', '.join(KINDS)}; repeatable; default: text."),
    ] = None,
    situation: Annotated[
        Situation,
        typer.Option(help="Same training run (paired) or another (retrained); auto: told by weights and seeds."),
    ] = Situation.auto,
    watch: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="What is compared: metric, use, missing; repeatable.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Most false alarms, over everything compared; default: 0.05.")
    ] = None,
    margin: Annotated[
        list[str] | None, typer.Option(metavar="KIND=VALUE", help="A fall under this is none to fail for; repeatable.")
    ] = None,
    effect: Annotated[
        list[str] | None, typer.Option(metavar="KIND=VALUE", help="A fall that must not be missed, else inconclusive.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A collapsekit.yaml or pyproject.toml.")] = None,
    split: Annotated[str | None, typer.Option(help="CKPT: split to diagnose; default: test, else val.")] = None,
    profile: Annotated[ProfileChoice, typer.Option(help="CKPT: profile of the diagnosis.")] = ProfileChoice.standard,
    device: Annotated[str, typer.Option(help="CKPT: where the model runs.")] = "cpu",
    seed: Annotated[int, typer.Option(help="CKPT: seed of the diagnosis.")] = 0,
    training_seed: TrainingSeed = None,
    limit: Annotated[int | None, typer.Option(min=1, help="CKPT: at most so many examples a split.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"CKPT: folder for its report; default: {OUTPUT}.")
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="CKPT: Python file with probes or adapters; repeatable.")
    ] = None,
    trust_pickle: TrustPickle = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, and no message but which config is used.")
    ] = False,
) -> Ended:
    """Decide whether a model may ship: exit 0 passed, 1 failed, 5 inconclusive."""
    from collapsekit.config.discovery import config_line, find_config
    from collapsekit.gating.decide import gate as decide
    from collapsekit.io.writable import check_file
    from collapsekit.report.baseline import Baseline

    wanted = parse_formats(format_ or [])
    for name, place in wanted:
        if place is not None:
            check_file(place, f"--format {name}={place}:")
    file, settled = _settled(config)
    ours, limits = settled.gate, _limits(settled.gate, watch, alpha, margin, effect)
    against = baseline or (settled.resolve(ours.baseline) if ours.baseline is not None else None)
    held = Baseline.load(against) if against is not None else None  # before minutes of diagnosis
    _check_kept(wanted, {"the report": subject, "the baseline": against, "the config": file})
    rules = tuple(require) if require else ours.require
    _check_rules(rules)
    report, code = _report_at(subject), 0
    if file is not None and report is not None:
        say(config_line(file, named=config is not None))
    asked = {
        **{"split": split, "device": device, "seed": seed, "limit": limit, "training_seed": training_seed},
        **{"profile": profile.value, "plugins": plugin or [], "trust_pickle": trust_pickle},
    }
    plain: dict[str, Any] = {"split": None, "device": "cpu", "seed": 0, "limit": None, "training_seed": None}
    plain |= {"profile": "standard", "plugins": [], "trust_pickle": None}
    if situation is not Situation.auto and held is None:
        raise ConfigError(f"--situation {situation.value} needs a baseline to compare with: name one with --baseline.")
    if report is None:
        need_working_directory()
        check_outputs(output, None, False)
        chosen = find_config(config, subject, "gate")
        _check_named(rules or (), chosen)
        ROLES.start_child()
        with progress(quiet) as shown:
            from collapsekit.diagnosis import diagnose
            from collapsekit.probes.runner import fault_code

            report = diagnose(subject, config=chosen, progress=shown, **asked)  # type: ignore[arg-type]
            code = fault_code(report)
            files = write_report(report, output, None, False, None)
        if not quiet:
            say(f"Written: {', '.join(map(str, files))}")
    elif asked != plain or output is not None:
        odd = next((k for k in asked if asked[k] != plain[k]), "output").replace("_", "-").replace("plugins", "plugin")
        raise ConfigError(f"--{odd} is of a diagnosis, but {subject} is a report that was made already: leave it out.")
    result = decide(report, require=rules, baseline=held, limits=limits, situation=situation.value)
    written = write_files(result, wanted)
    code = code if code and result.outcome != "failed" else result.exit_code
    return Ended(code, lambda: show(result, wanted, [] if quiet else written))


def parse_formats(given: list[str]) -> list[tuple[str, Path | None]]:
    """``FORMAT`` and ``FORMAT=FILE`` as pairs. Raises ConfigError for others, and for two formats on stdout."""
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


def _check_kept(wanted: list[tuple[str, Path | None]], read: dict[str, Path | None]) -> None:
    """Raises ConfigError where a format would be written over what the gate reads."""
    for what, path in read.items():
        for name, file in wanted:
            if path is not None and file is not None and os.path.realpath(path) == os.path.realpath(file):
                raise ConfigError(f"--format {name}={file} would be written over {what}: give it a file of its own.")


def write_files(result: GateReport, wanted: list[tuple[str, Path | None]]) -> list[Path]:
    """Files of the formats that were asked for; of github, the step summary too, where the runner names a file for it."""
    from collapsekit import render
    from collapsekit.io.files import write_atomic

    files = [write_atomic(file, render.write(result, name)) for name, file in wanted if file is not None]
    if any(name == "github" for name, _ in wanted):
        _summarise(result)
    return files


def show(result: GateReport, wanted: list[tuple[str, Path | None]], written: list[Path]) -> None:
    """The format that goes to stdout, and which files were written."""
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
    from collapsekit.config.schema import Config, load_config

    here = working_directory()
    if config is None and here is None:
        return None, Config()
    file = find_config(config, None) if config is not None else nearest_config()
    return file, load_config(file) if file is not None else Config(base=here or Path())


def _limits(
    ours: GateConfig, watch: list[str] | None, alpha: float | None, margin: list[str] | None, effect: list[str] | None
) -> Limits:
    from collapsekit.gating.criteria import DEFAULT, Limits

    chosen = alpha if alpha is not None else ours.alpha
    return Limits(
        watch=tuple(watch or ours.watch or DEFAULT),
        alpha=0.05 if chosen is None else chosen,
        margins={**ours.margins, **_numbers(margin, "--margin")},
        effects={**ours.effects, **_numbers(effect, "--effect")},
    )


def _numbers(given: list[str] | None, option: str) -> dict[str, float]:
    found = {}
    for text in given or []:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"{option} {text!r} is not of the form KIND=NUMBER, e.g. use=0.1.") from None
    return found


def _check_rules(rules: tuple[str, ...] | None) -> None:
    """Before a diagnosis that takes minutes, say what is wrong with them."""
    from collapsekit.gating.rules.parser import parse_rule

    for rule in rules or ():
        parse_rule(rule)


def _check_named(rules: tuple[str, ...], config: Path) -> None:
    """Raises ConfigError for a rule about a modality that the checkpoint's config does not have, where that is known."""
    from collapsekit.config.schema import load_config
    from collapsekit.gating.rules.evaluate import check_modalities

    if rules and (settled := load_config(config)).adapter == "module":
        check_modalities(rules, tuple(settled.modalities))


def _report_at(path: Path | None) -> Report | None:
    """The report at the path, with the records beside it; None where it is no report, but a checkpoint."""
    from collapsekit.report.base import read_json
    from collapsekit.report.diagnosis import Report
    from collapsekit.report.per_example import NAME, load_records
    from collapsekit.report.repair import RepairReport

    if path is not None and os.path.isdir(path) and os.path.lexists(path / "report.json"):  # noqa: PTH112
        there = sorted(p.name for p in path.iterdir())
        weights = next((n for n in there if n.endswith(_WEIGHTS) and n != NAME), None)
        if weights is not None:  # the report may be of other weights than those
            raise ConfigError(
                f"{path} holds a report.json and weights ({weights[:80]!r}): give {path / 'report.json'} to judge the "
                f"report as it is, or {path / weights} to diagnose those weights."
            )
        path = path / "report.json"
    if path is None or path.suffix.lower() != ".json":
        return None
    if not os.path.lexists(path):
        raise ConfigError(
            f"{path} is not a file: give a report.json that `collapsekit diagnose` wrote, or a checkpoint."
        )
    raw = read_json(path)
    if isinstance(raw, dict) and "weight_map" in raw:
        return None  # the index of a sharded checkpoint
    if isinstance(raw, dict) and raw.get("kind") == "repair":
        repair = RepairReport.from_data(raw, str(path))
        if not repair.exported:
            raise ConfigError(
                f"{path} is of a repair that was rejected and wrote no weights, so there is no model to judge: give the "
                "report.json of the model that is there."
            )
        return repair.after
    report = Report.from_data(raw, str(path))
    records = load_records(report, path)
    return report if records is None else report.with_records(records)

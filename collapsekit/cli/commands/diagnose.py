"""collapsekit diagnose."""

from __future__ import annotations

from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.output import write
from collapsekit.cli.terminal import Ended, TrustPickle, guarded, need_working_directory, progress, say, show
from collapsekit.errors import ConfigError, NothingEvaluatedError

if TYPE_CHECKING:
    from collapsekit.report.diagnosis import Report

OUTPUT = Path("collapsekit-report")


class Format(StrEnum):
    """Formats of a report."""

    json = "json"
    md = "md"
    html = "html"
    terminal = "terminal"


class FailOn(StrEnum):
    """Verdicts that can fail a run."""

    collapsed = "collapsed"
    underused = "underused"
    uninformative = "uninformative"
    inconclusive = "inconclusive"


class ProfileChoice(StrEnum):
    """Profiles, as in collapsekit.context."""

    quick = "quick"
    standard = "standard"
    full = "full"


def probe_names(incomplete: str) -> list[str]:
    """Built-in probes for shell completion: their files' names, nothing imported."""
    folder = Path(__file__).parents[2] / "probes"
    names = sorted(f.stem for f in folder.glob("*/*.py"))
    return [n for n in names if n.startswith(incomplete) and not n.startswith("_")]


Probes = Annotated[
    list[str] | None,
    typer.Option("--probe", "-p", help="Run only this probe; repeatable.", autocompletion=probe_names),
]
TrainingSeed = Annotated[
    int | None, typer.Option(min=0, help="Seed the model was trained with; default: the config's model.seed.")
]


@guarded
def diagnose(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint; default: the config's model.checkpoint.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A collapsekit.yaml or pyproject.toml.")] = None,
    split: Annotated[str | None, typer.Option(help="Split to diagnose; default: test, else val.")] = None,
    probe: Probes = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave this probe out; repeatable.", autocompletion=probe_names)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PROBE.OPTION=VALUE", help="Set a probe's option; repeatable.")
    ] = None,
    profile: Annotated[
        ProfileChoice,
        typer.Option(
            help="quick trains linear heads only; standard also baselines, within a budget; full all of them."
        ),
    ] = ProfileChoice.standard,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of everything drawn or trained.")] = 0,
    training_seed: TrainingSeed = None,
    limit: Annotated[int | None, typer.Option(min=1, help="FOR TRYING OUT: at most so many examples a split.")] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB of inputs and features kept in memory; more is mapped from files. Default: 4."),
    ] = None,
    subsets: Annotated[
        bool, typer.Option("--subsets", help="Also run growing, over the models of the config's `subsets`.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=f"Folder for files; default: {OUTPUT}.")] = None,
    format_: Annotated[
        list[Format] | None, typer.Option("--format", "-f", help="What to make; repeatable; default: all four.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="report.json to stdout; files only with --output.")] = False,
    figures: Annotated[Path | None, typer.Option(help="Also save every figure as SVG, PDF and PNG here.")] = None,
    fail_on: Annotated[
        list[FailOn] | None,
        typer.Option(
            help="Exit 1 when a modality has this verdict (underused: or is collapsed), 5 when the whole is inconclusive; "
            "repeatable."
        ),
    ] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with probes or adapters; repeatable.")] = None,
    trust_pickle: TrustPickle = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no report on the terminal.")] = False,
) -> Ended:
    """Find out which modality a checkpoint ignores, what that costs, and why."""
    need_working_directory()
    ROLES.start_child()
    from collapsekit.distributed.process_group import together  # not for gate, which starts this file only to diagnose

    with together() as world, progress(quiet or not world.first) as shown:
        from collapsekit.diagnosis import diagnose as run

        world.once(lambda: check_outputs(output, format_, json_, figures))
        report = run(
            checkpoint,
            config=config,
            split=split,
            probes=probe,
            skip=skip or [],
            options=parse_set(set_ or []),
            profile=profile.value,
            device=device,
            seed=seed,
            limit=limit,
            training_seed=training_seed,
            subsets=subsets,
            plugins=plugin or [],
            trust_pickle=trust_pickle,
            progress=shown,
            memory=None if memory is None else memory * 2**30,
        )
        world.agree(report.to_json(), "results")
        shown.step("writing the report", 0, None)
        written = world.once(lambda: write_report(report, output, format_, json_, figures))
    code, why = judge_exit(report, fail_on or [])

    def shown_last() -> None:
        if json_:
            write(report.to_json(), "json")
        elif not quiet and (not format_ or Format.terminal in format_):
            show(report)
        if written and not quiet:
            say(f"Written: {', '.join(str(p) for p in written)}")
        if why is not None:
            say(why)

    return Ended(code, shown_last) if world.first else Ended(code)


def parse_set(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """``probe.option=value`` pairs as options by probe. Raises ConfigError where one is not of that form."""
    from collapsekit.io.yaml import parse_yaml

    out: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        probe, dot, option = name.partition(".")
        if not equals or not dot or not probe or not option:
            raise ConfigError(f"--set {pair!r} is not of the form probe.option=value, e.g. vif.option=3.")
        out.setdefault(probe.strip(), {})[option.strip()] = parse_yaml(value, f"--set {name}")
    return out


def wanted_files(output: Path | None, formats: list[Format] | None, to_stdout: bool) -> list[str]:
    """Formats that are written to files, each once."""
    if output is None and to_stdout:
        return []
    return list(dict.fromkeys(f.value for f in formats or list(Format) if f is not Format.terminal))


def check_outputs(
    output: Path | None, formats: list[Format] | None, to_stdout: bool, figures: Path | None = None
) -> None:
    """Raises ConfigError, before the work, where ``write_report`` of the same could not write."""
    from collapsekit.io.writable import check_folder
    from collapsekit.report.per_example import NAME

    wanted = wanted_files(output, formats, to_stdout)
    if wanted:
        check_folder(output or OUTPUT, "--output", [*(f"report.{n}" for n in wanted), *([NAME] * ("json" in wanted))])
    if figures is not None:
        check_folder(figures, "--figures")


def write_report(
    report: Report, output: Path | None, formats: list[Format] | None, to_stdout: bool, figures: Path | None
) -> list[Path]:
    """Files the options ask for; returns their paths."""
    from collapsekit import render
    from collapsekit.io.files import write_atomic
    from collapsekit.io.locks import locked
    from collapsekit.report.per_example import NAME

    wanted = wanted_files(output, formats, to_stdout)
    folder = output or OUTPUT
    written = []
    with locked(folder / NAME) if wanted else nullcontext():  # so that files of two diagnoses are not mixed
        if "json" in wanted and report.records is not None:  # before the report that names it
            written.append(write_atomic(folder / NAME, report.records))
        written += [write_atomic(folder / f"report.{name}", render.write(report, name)) for name in wanted]
    if figures is not None:
        from collapsekit.render.figures.diagnosis import save

        written += save(report, figures)
    return written


def judge_exit(report: Report, fail_on: list[FailOn]) -> tuple[int, str | None]:
    """The exit code, and why it is not 0: 4 (a user's own: 2) when an error ended a probe, 1 when a verdict in ``fail_on``
    was given, 5 when the evidence does not decide; never a silent pass."""
    from collapsekit.probes.runner import fault_code

    if code := fault_code(report):
        return code, None  # said when it happened, and a warning in the report
    if not fail_on:
        return 0, None
    failing = {f.value for f in fail_on}
    if FailOn.underused in fail_on:  # who does not want too little use wants none still less
        failing.add(FailOn.collapsed.value)
    met = [m for m, v in report.modalities.items() if v.verdict in failing]
    if met:
        return 1, f"failed: {', '.join(f'{m} is {report.modalities[m].verdict}' for m in met)} (--fail-on)."
    undecided = [m for m, v in report.modalities.items() if v.verdict == "inconclusive"]
    if undecided:
        why = f"error: the evidence does not decide about {', '.join(undecided)}, so this is no pass."
        return NothingEvaluatedError.exit_code, why
    return 0, None

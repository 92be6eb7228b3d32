"""collapsekit repair."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.commands.diagnose import ProfileChoice, parse_set
from collapsekit.cli.output import write
from collapsekit.cli.terminal import Ended, TrustPickle, guarded, need_working_directory, progress, say, screen
from collapsekit.distributed.process_group import together

if TYPE_CHECKING:
    from collapsekit.report.repair import RepairReport


class Optimizer(StrEnum):
    """Optimisers, as in collapsekit.repairs.training.job."""

    adamw = "adamw"
    sgd = "sgd"


class Schedule(StrEnum):
    """Schedules of the learning rate, as in collapsekit.repairs.training.job."""

    cosine = "cosine"
    constant = "constant"
    paper = "paper"


def repair_names(incomplete: str) -> list[str]:
    """Built-in repairs for shell completion: what their files register, nothing imported."""
    import re

    files = sorted((Path(__file__).parents[2] / "repairs" / "methods").glob("*.py"))
    found = [n for f in files for n in re.findall(r'^@repair\(\s*"(\w+)"', f.read_text(encoding="utf-8"), re.MULTILINE)]
    return [n for n in found if n.startswith(incomplete)]


@guarded
def repair(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint; default: the config's model.checkpoint.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for weights and reports.")] = Path("repaired"),
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A collapsekit.yaml or pyproject.toml.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="Repair, or several in order: kd,dropout; default: recommended from the diagnosis.",
            autocompletion=repair_names,
        ),
    ] = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Repair this modality; repeatable; default: those collapsed or underused on val."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.OPTION=VALUE", help="Set a repair's option; repeatable."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="At most so many epochs a stage (default 30; thrice for a warm-up).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="At most so many optimiser steps a stage.")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="sgd: with a momentum of 0.9 (default adamw).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate (default 0.001).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a batch (default 64).")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches an optimiser step (default 1).")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient (default 1).")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay (default 0.0001).")] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="Of the learning rate (default cosine).")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without improvement (default 8).")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Train in bfloat16 where torch's autocast does.")] = False,
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Train with torch.compile, which takes its time to begin."),
    ] = False,
    fsdp: Annotated[
        bool,
        typer.Option(
            "--fsdp", help="Share out weights and moments: torchrun --nproc-per-node N -m collapsekit repair."
        ),
    ] = False,
    freeze: Annotated[list[str] | None, typer.Option(help="Leave this submodule as it is; repeatable.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write losses and learning rates there for TensorBoard.")
    ] = None,
    control: Annotated[bool, typer.Option(help="Also fine-tune plainly, to judge the repair beside it.")] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Export the weights even where they are rejected.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted repair's snapshots.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in the folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and what it costs.")] = False,
    profile: Annotated[ProfileChoice, typer.Option(help="Of the diagnoses before and after.")] = ProfileChoice.standard,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of everything drawn or trained.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="FOR TRYING OUT: at most so many examples a split.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with repairs; repeatable.")] = None,
    trust_pickle: TrustPickle = None,
    json_: Annotated[bool, typer.Option("--json", help="repair.json to stdout too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no report on the terminal.")] = False,
) -> Ended:
    """Fine-tune a checkpoint so that it uses what it ignored; exits 1 where the result is rejected."""
    training = {
        **{"epochs": epochs, "steps": steps, "rate": lr, "batch": batch_size, "accumulate": accumulate, "clip": clip},
        **{"optimizer": optimizer and optimizer.value, "weight_decay": weight_decay},
        **{"schedule": schedule and schedule.value, "patience": patience},
        **{"amp": amp or None, "compile": compile_ or None, "fsdp": fsdp or None, "freeze": freeze or None},
    }
    asked: dict[str, Any] = {
        "config": config,
        "method": method,
        "modalities": modality,
        "options": parse_set(set_ or []),
        "training": {k: v for k, v in training.items() if v is not None},
        "profile": profile.value,
        "device": device,
        "seed": seed,
        "limit": limit,
        "plugins": plugin or [],
        "trust_pickle": trust_pickle,
        "tensorboard": tensorboard,
    }
    need_working_directory()
    ROLES.start_child()
    with together() as world, progress(quiet or not world.first) as shown:
        if dry_run:
            from collapsekit.repairs.run import plan

            said = plan(checkpoint, **asked, progress=shown)
        else:
            from collapsekit.repairs.run import repair as run

            how: dict[str, Any] = {"control": control, "keep": keep, "resume": resume, "force": force}
            try:
                report = run(checkpoint, output=output, **asked, **how, progress=shown)
                if world.first:
                    _files(report, output)
            except KeyboardInterrupt:
                shown.note(f"The same command with --resume goes on from the snapshots in {output}.")
                raise
    if dry_run:
        return Ended(show=lambda: write("\n".join(said) + "\n") if world.first else None)
    from collapsekit.probes.runner import fault_code

    code = fault_code(report.before, report.after, report.control) or (0 if report.accepted else 1)
    return Ended(code, lambda: _show(report, output, to_stdout=json_, quiet=quiet) if world.first else None)


def _files(report: RepairReport, folder: Path) -> None:
    from collapsekit import render
    from collapsekit.io.files import write_atomic

    for name in ("md", "html"):
        write_atomic(folder / f"repair.{name}", render.write(report, name))


def _show(report: RepairReport, folder: Path, *, to_stdout: bool, quiet: bool) -> None:
    if to_stdout:
        write(report.to_json(), "json")
    elif not quiet:
        screen(report)
    if not quiet:
        weights = "model.safetensors, " if report.exported else ""
        say(f"Written to {folder}: {weights}repair.json, repair.md, repair.html")
    if not report.accepted:
        say("rejected: " + " ".join(check.sentence for check in report.checks if not check.passed))

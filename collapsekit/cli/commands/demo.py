"""collapsekit demo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from collapsekit.cli.commands.diagnose import PAGE, show, write_report
from collapsekit.cli.options import Headline, LogTo, Verbose
from collapsekit.cli.terminal import (
    MESSAGES,
    NOTES,
    Ended,
    guarded,
    need_working_directory,
    progress,
    say,
    say_shortly,
)
from collapsekit.config.options import DiagnoseOptions
from collapsekit.errors import ConfigError
from collapsekit.io.limits import SEEDS
from collapsekit.io.writable import check_folder

DIAGNOSIS = "diagnosis"
STAGES = {"training the example": 3.0, DIAGNOSIS: 30.0}  # seconds that they took where this was written
FILES = ("ckpt.pt", "model.py", "collapsekit.yaml", "data.safetensors")


@guarded
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder to make.")] = Path("collapsekit-demo"),
    seed: Annotated[int, typer.Option(min=0, max=SEEDS - 1, help="Seed of training and diagnosis.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo's files.")] = False,
    log: LogTo = None,
    verbose: Verbose = False,
    quiet: Headline = False,
) -> Ended:
    """Train a small model on real data, watch it ignore a view, and diagnose it. Takes under a minute."""
    from collapsekit.io.locks import locked

    need_working_directory()
    check_folder(folder, "the folder", FILES)
    check_folder(folder / "report", "the folder")
    shows = progress(quiet, NOTES, verbose=verbose, log=log)
    with locked(folder / FILES[0], wait=0), shows as shown:  # no other demo writes there meanwhile
        there = [name for name in FILES if os.path.exists(folder / name)]  # noqa: PTH110 - Path's own raises for a name too long
        if there and not force:
            raise ConfigError(
                f"{folder} already holds {', '.join(there)}: name another folder, or replace them with --force."
            )
        shown.note("Training a model on four views of 1,200 handwritten digits (UCI MFeat) ...")
        from collapsekit.cli.next_steps import Request
        from collapsekit.demo.make import make_demo
        from collapsekit.diagnosis import diagnose
        from collapsekit.probes.runner import fault_code

        shown.plan(STAGES)
        shown.writing = PAGE
        checkpoint = make_demo(folder, seed, shown)
        shown.begin(DIAGNOSIS)
        config = folder / "collapsekit.yaml"
        report = diagnose(checkpoint, config=config, seed=seed, progress=shown)
        shown.step("writing the report", 0, None)
        written = write_report(report, folder / "report", None, False, None)
    typed = Request(DiagnoseOptions.make(seed=seed), config=config)

    def shown_last() -> None:
        show(report, typed, written, quiet=quiet, verbose=verbose)
        if not quiet:
            say_shortly(f"{folder} holds {', '.join(FILES)}.", MESSAGES - 1)
            say("For a model of your own: collapsekit init YOUR_CHECKPOINT")

    return Ended(fault_code(report), shown_last)

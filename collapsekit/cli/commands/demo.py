"""collapsekit demo."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.commands.diagnose import write_report
from collapsekit.cli.terminal import Ended, guarded, need_working_directory, progress, say, show
from collapsekit.errors import ConfigError
from collapsekit.io.limits import SEEDS
from collapsekit.io.writable import check_folder

if TYPE_CHECKING:
    from collapsekit.report.diagnosis import Report

FILES = ("ckpt.pt", "model.py", "collapsekit.yaml", "data.safetensors")


@guarded
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder to make.")] = Path("collapsekit-demo"),
    seed: Annotated[int, typer.Option(min=0, max=SEEDS - 1, help="Seed of training and diagnosis.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo's files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no report on the terminal.")] = False,
) -> Ended:
    """Train a small model on real data, watch it ignore a view, and diagnose it. Takes under a minute."""
    from collapsekit.io.locks import locked

    need_working_directory()
    check_folder(folder, "the folder", FILES)
    check_folder(folder / "report", "the folder")
    with locked(folder / FILES[0], wait=0), progress(quiet) as shown:  # no other demo writes there meanwhile
        there = [name for name in FILES if os.path.exists(folder / name)]  # noqa: PTH110 - Path's own raises for a name too long
        if there and not force:
            raise ConfigError(
                f"{folder} already holds {', '.join(there)}: name another folder, or replace them with --force."
            )
        shown.note("Training a model on four views of 1,200 handwritten digits (UCI Multiple Features) ...")
        from collapsekit.demo.make import make_demo
        from collapsekit.diagnosis import diagnose
        from collapsekit.probes.runner import fault_code

        checkpoint = make_demo(folder, seed, shown)
        report = diagnose(checkpoint, config=folder / "collapsekit.yaml", seed=seed, progress=shown)
        shown.step("writing the report", 0, None)
        write_report(report, folder / "report", None, False, None)
    return Ended(fault_code(report), lambda: None if quiet else _show(report, folder))


def _show(report: Report, folder: Path) -> None:
    show(report)
    place = shlex.quote(str(folder))
    say(
        f"""
{folder} holds the model as you would have it: model.py, ckpt.pt, data.safetensors, collapsekit.yaml.
Next:
  open {folder / "report" / "report.html"} in a browser
  cd {place} && collapsekit diagnose                       # the same diagnosis from the config alone
  cd {place} && collapsekit diagnose -p rank_sweep --set rank_sweep.modality=all
  collapsekit init YOUR_CHECKPOINT                     # a config for your own model"""
    )

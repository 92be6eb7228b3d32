"""The folder that a repair writes: whether it may, and what it leaves there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import nn

from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError
from collapsekit.io.files import is_file, write_atomic
from collapsekit.io.locks import locked
from collapsekit.io.writable import check_folder, check_room
from collapsekit.repairs.export import export_weights
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.repair import FILE, WEIGHTS, RepairReport

SNAPSHOTS = "snapshots"
SHOWN = ("repair.md", "repair.html")  # what the command line writes besides


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other repairs out of the folder meanwhile. Raises ConfigError where one does, or nothing can be written."""
    with ExitStack() as stack:

        def lock() -> None:
            check_folder(folder, "--output", (WEIGHTS, FILE, *SHOWN))
            stack.enter_context(locked(folder / FILE, wait=0))

        current().on_main(lock)  # the first process's
        yield


def check_free(folder: Path, *, resume: bool, force: bool) -> None:
    """Check that nothing in the folder is in the way of a repair.

    Args:
        folder: Where it is to be written.
        resume: It goes on with what is unfinished there.
        force: What is there may be replaced; an unfinished repair is removed at once.

    Raises:
        ConfigError: Where something is in the way.
    """
    unfinished = (folder / SNAPSHOTS).is_dir()
    there = [name for name in (WEIGHTS, FILE) if is_file(folder / name)]
    if there and not force and not (resume and unfinished):  # ended while it was being written
        raise ConfigError(
            f"{folder} already holds {' and '.join(there)}: name another folder, or replace it with --force."
        )
    if unfinished and not (resume or force):
        raise ConfigError(f"{folder} holds an unfinished repair: go on with --resume, or start anew with --force.")
    if unfinished and not resume:
        for part in (folder / SNAPSHOTS).iterdir():
            Snapshots(part, {}).clear()


def check_room_for(folder: Path, size: int) -> None:
    """Check that files of ``size`` bytes find room, where snapshots that are there will be replaced."""
    taken = sum(f.stat().st_size for f in (folder / SNAPSHOTS).rglob("*") if is_file(f))
    check_room(folder, size - taken, "the repair")


def write_results(folder: Path, report: RepairReport, model: nn.Module) -> None:
    """Write the report, and the weights where they are exported.

    Args:
        folder: Where.
        report: It says whether the weights are exported.
        model: The repaired one.
    """
    if report.exported:
        export_weights(model, folder)
    else:  # with --force: an earlier repair's, which the report beside them would not be of
        (folder / WEIGHTS).unlink(missing_ok=True)
    write_atomic(folder / FILE, report.to_json())

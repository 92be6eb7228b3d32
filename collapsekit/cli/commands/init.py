"""collapsekit init."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.terminal import Ended, TrustPickle, guarded, need_working_directory, say
from collapsekit.errors import ConfigError

if TYPE_CHECKING:  # so that --help imports no torch
    from collapsekit.autoconfig.guess import Proposal
    from collapsekit.checkpoint.sidecars.described import Described

CONFIG_NAME = "collapsekit.yaml"  # as in collapsekit.config.schema, which would make --help import pydantic


@guarded
def init(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="Checkpoint to look into; nothing in it is executed.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Config file to write.")] = Path(CONFIG_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace a config that is there.")] = False,
    trust_pickle: TrustPickle = None,
) -> Ended:
    """Look into a checkpoint and write a commented collapsekit.yaml; says what it could not tell."""
    from collapsekit.autoconfig.guess import propose
    from collapsekit.autoconfig.text import config_text
    from collapsekit.checkpoint.read import read_checkpoint
    from collapsekit.checkpoint.sidecars.beside import describe_beside
    from collapsekit.checkpoint.trust import digest_named
    from collapsekit.io.files import write_atomic
    from collapsekit.io.locks import locked
    from collapsekit.io.writable import check_file

    _need_free(output, force)
    need_working_directory()
    check_file(output, "--output")
    if trust_pickle is not None:
        digest_named(trust_pickle)
        ROLES.start_child()
    read = read_checkpoint(checkpoint, trust=trust_pickle)
    shapes = {name: tuple(tensor.shape) for name, tensor in read.tensors.items()}
    found, beside = propose(shapes), describe_beside(checkpoint)
    name = os.path.relpath(checkpoint.resolve(), output.resolve().parent)
    with locked(output):
        _need_free(output, force)  # another one may have written it meanwhile
        write_atomic(output, config_text(found, name, shapes, beside))
    told = [
        f"{checkpoint}: {read.note}",
        *(_told_beside(beside) if beside and beside.inputs else _told_by_names(found)),
    ]
    found_here = output.name == CONFIG_NAME and output.resolve().parent == Path.cwd()
    named = "" if found_here else f" --config {shlex.quote(str(output))}"
    named += f" --trust-pickle sha256:{read.sha256}" if read.trusted else ""
    told.append(
        f"Wrote {output}. Fill in the lines marked FILL IN, then: collapsekit diagnose {shlex.quote(str(checkpoint))}{named}"
    )
    return Ended(show=lambda: say("\n".join(told)))


def _told_beside(beside: Described) -> list[str]:
    inputs = [f"  modality {field.name}: {field.key}{field.part or ''}" for field in beside.inputs]
    return [f"  {beside.maker}, as the files beside it say", *inputs]


def _told_by_names(proposal: Proposal) -> list[str]:
    told = [f"  modality {modality}: encoder {encoder}" for modality, encoder in proposal.modalities.items()]
    told += [f"  fusion: {proposal.fusion or 'not found'}", f"  head: {proposal.head or 'not found'}"]
    if proposal.unsure:
        told += ["What it could not tell:", *(f"  - {sentence}" for sentence in proposal.unsure)]
    return told


def _need_free(output: Path, force: bool) -> None:
    if os.path.exists(output) and not force:  # noqa: PTH110 - Path's own raises for a name too long
        raise ConfigError(f"{output} is already there: name another with --output, or replace it with --force.")

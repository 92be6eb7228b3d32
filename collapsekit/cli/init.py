"""collapsekit init."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from collapsekit.cli.terminal import TrustPickle, guarded, say
from collapsekit.errors import ConfigError

CONFIG_NAME = "collapsekit.yaml"  # as in collapsekit.config, which would make --help import pydantic


@guarded
def init(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="Checkpoint to look into; nothing in it is executed.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Config file to write.")] = Path(CONFIG_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace a config that is there.")] = False,
    trust_pickle: TrustPickle = None,
) -> None:
    """Look into a checkpoint and write a commented collapsekit.yaml; says what it could not tell."""
    from collapsekit.checkpoint.read import read_checkpoint
    from collapsekit.checkpoint.trusted import digest_named
    from collapsekit.files import write_atomic
    from collapsekit.propose import config_text, propose
    from collapsekit.writable import check_file

    if os.path.exists(output) and not force:  # noqa: PTH110 - Path's own raises for a name too long
        raise ConfigError(f"{output} is already there: name another with --output, or replace it with --force.")
    check_file(output, "--output")
    if trust_pickle is not None:
        digest_named(trust_pickle)
    read = read_checkpoint(checkpoint, trust=trust_pickle)
    shapes = {name: tuple(tensor.shape) for name, tensor in read.tensors.items()}
    found = propose(shapes)
    name = os.path.relpath(checkpoint.resolve(), output.resolve().parent)
    write_atomic(output, config_text(found, name, shapes))
    say(f"{checkpoint}: {read.note}")
    for modality, encoder in found.modalities.items():
        say(f"  modality {modality}: encoder {encoder}")
    say(f"  fusion: {found.fusion or 'not found'}")
    say(f"  head: {found.head or 'not found'}")
    if found.unsure:
        say("What it could not tell:")
        for sentence in found.unsure:
            say(f"  - {sentence}")
    named = "" if output.name == CONFIG_NAME else f" --config {shlex.quote(str(output))}"
    named += f" --trust-pickle sha256:{read.sha256}" if read.trusted else ""
    say(
        f"Wrote {output}. Fill in the lines marked FILL IN, then: collapsekit diagnose {shlex.quote(str(checkpoint))}{named}"
    )

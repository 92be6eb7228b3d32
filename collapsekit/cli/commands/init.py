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
    from collapsekit.autoconfig.running.text import Named
    from collapsekit.checkpoint.read import Checkpoint
    from collapsekit.checkpoint.sidecars.described import Described

CONFIG_NAME = "collapsekit.yaml"  # as in collapsekit.config.schema, which would make --help import pydantic


@guarded
def init(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="Checkpoint to look into; nothing in it is executed.")
    ],
    factory: Annotated[
        str | None, typer.Option("--factory", metavar="MODULE:CALLABLE", help="RUNS IT: what builds the model.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE|FOLDER|MODULE:CALLABLE",
            help="File of arrays, folder of logged episodes, or (RUNS IT) function of loaders.",
        ),
    ] = None,
    kwargs: Annotated[
        str | None, typer.Option("--kwargs", metavar="YAML", help="Arguments of the factory, such as '{width: 64}'.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Config file to write.")] = Path(CONFIG_NAME),
    force: Annotated[bool, typer.Option("--force", help="Replace a config that is there.")] = False,
    trust_pickle: TrustPickle = None,
) -> Ended:
    """Write a commented collapsekit.yaml: by running a batch (--factory and --data), else by the checkpoint's names."""
    from collapsekit.checkpoint.read import read_checkpoint
    from collapsekit.checkpoint.sidecars.beside import describe_beside
    from collapsekit.checkpoint.trust import digest_named
    from collapsekit.io.files import write_atomic
    from collapsekit.io.hub import locate, shown_as
    from collapsekit.io.locks import locked
    from collapsekit.io.writable import check_file

    _need_free(output, force)
    need_working_directory()
    check_file(output, "--output")
    if trust_pickle is not None:
        digest_named(trust_pickle)
    if trust_pickle is not None or factory is not None:
        ROLES.start_child()
    recording = _recording(data, factory, kwargs)
    named = None if recording is not None else _named(factory, data, kwargs, checkpoint, output)
    if named is not None:
        from collapsekit.autoconfig.running.write import check_named

        check_named(named, output.resolve().parent)
    place = locate(checkpoint)
    read = read_checkpoint(place, trust=trust_pickle)
    beside = describe_beside(place)
    if named is not None:
        text, shown = _by_running(named, output, read, beside, trust_pickle)
    else:
        text, shown = _by_names(read, beside, _called(checkpoint, output.resolve().parent), recording, output)
    with locked(output):
        _need_free(output, force)  # another one may have written it meanwhile
        write_atomic(output, text)
    found_here = output.name == CONFIG_NAME and output.resolve().parent == Path.cwd()
    options = "" if found_here else f" --config {shlex.quote(str(output))}"
    options += f" --trust-pickle sha256:{read.sha256}" if read.trusted else ""
    command = f"collapsekit diagnose {shlex.quote(shown_as(checkpoint))}{options}"
    last = f"Wrote {output}. Fill in the lines marked FILL IN, then: {command}"
    if "FILL IN" not in text:
        last = f"Wrote {output}. Now: {command}"
    return Ended(show=lambda: say("\n".join([f"{shown_as(checkpoint)}: {read.note}", *shown, last])))


def _recording(data: str | None, factory: str | None, kwargs: str | None) -> Path | None:
    """The folder of logged episodes that is named without anything to run; None where there is none."""
    if data is None or not Path(data).is_dir():
        return None
    from collapsekit.data.episodes.lerobot import INFO, is_recording
    from collapsekit.io.safe_text import quote

    if not is_recording(Path(data)):
        raise ConfigError(
            f"--data {quote(data)} is a folder without {INFO}, so no recording of LeRobot's: name one, or a file of arrays "
            "and --factory."
        )
    if factory is not None or kwargs is not None:
        raise ConfigError(
            f"--data {quote(data)} is a recording, which init reads without running a model: leave --factory and --kwargs "
            "out, and name the factory in the config."
        )
    return Path(data)


def _named(factory: str | None, data: str | None, kwargs: str | None, checkpoint: Path, output: Path) -> Named | None:
    """What the config is to name; None where there is nothing to run. Raises ConfigError for half of it."""
    if factory is None and data is None and kwargs is None:
        return None
    if factory is None or data is None:
        lacking = "--factory" if factory is None else "--data"
        raise ConfigError(
            f"init runs the model where --factory and --data are given, and {lacking} is not: add it, or leave both out."
        )
    from collapsekit.autoconfig.running.text import Named
    from collapsekit.io.safe_text import quote
    from collapsekit.io.yaml import parse_yaml

    arguments = {} if kwargs is None else parse_yaml(kwargs, f"--kwargs {quote(kwargs)}")
    if not isinstance(arguments, dict):
        raise ConfigError(f"--kwargs is {quote(str(kwargs))}, expected a mapping such as '{{width: 64}}'.")
    folder = output.resolve().parent
    is_file = ":" not in data or Path(data).exists()
    path = os.path.relpath(Path(data).resolve(), folder) if is_file else None
    return Named(factory, arguments, _called(checkpoint, folder), path, None if is_file else data)


def _called(checkpoint: Path, folder: Path) -> str:
    """What a config in a folder calls a checkpoint: its path from there, or its name on the hub."""
    from collapsekit.io.hub import is_hub_name, shown_as

    return shown_as(checkpoint) if is_hub_name(checkpoint) else os.path.relpath(checkpoint.resolve(), folder)


def _by_running(
    named: Named, output: Path, read: Checkpoint, beside: Described | None, trust: str | None
) -> tuple[str, list[str]]:
    """The config of a model that ran, and what to say of it."""
    from collapsekit import registry
    from collapsekit.autoconfig.running.write import write_observed

    registry.load_builtins()
    done = write_observed(named, output.resolve().parent, read, beside, trust)
    observed, verified = done.observed, done.verified
    shown = [
        f"  modality {name}: {f'encoder {section.encoder}' if section.encoder else 'edited at the input'}"
        for name, section in observed.sections.items()
    ]
    shown += [f"  fusion: {observed.fusion or 'not found'}", f"  task: {observed.outcome.task or 'not found'}"]
    shown += [f"  label: {observed.outcome.label}"] if observed.outcome.label is not None else []
    shown += [f"  - {sentence}" for sentence in (*observed.notes, *observed.questions)]
    shown += [f"  verified: {sentence}" for sentence in verified.holds]
    return done.text, shown if verified.refused is None else [*shown, f"  not verified: {verified.refused}"]


def _by_names(
    read: Checkpoint, beside: Described | None, name: str, recording: Path | None, output: Path
) -> tuple[str, list[str]]:
    """The config that names, files beside the weights and a recording suggest, and what to say of it."""
    from collapsekit.autoconfig.guess import propose
    from collapsekit.autoconfig.text import config_text

    shapes = {key: tuple(tensor.shape) for key, tensor in read.tensors.items()}
    found = propose(shapes)
    place = None if recording is None else os.path.relpath(recording.resolve(), output.resolve().parent)
    if recording is not None:
        beside = _with_recording(beside, recording)
    shown = _told_beside(beside) if beside is not None and beside.inputs else _told_by_names(found)
    return config_text(found, name, shapes, beside, place), shown


def _with_recording(beside: Described | None, folder: Path) -> Described:
    """What the policy's files say, and of the recording what they do not."""
    from dataclasses import replace

    from collapsekit.data.episodes.describe import compare_keys, describe_recording

    policy = describe_recording(folder) if beside is None or not beside.inputs else beside
    return replace(policy, sentences=(*policy.sentences, *compare_keys(folder, policy)))


def _told_beside(beside: Described) -> list[str]:
    inputs = [f"  modality {field.name}: {field.key}{field.part or ''}" for field in beside.inputs]
    about = [f"  - {sentence}" for sentence in beside.sentences if sentence.startswith("the recording")]
    return [f"  {beside.maker}, as the files beside it say", *inputs, *about]


def _told_by_names(proposal: Proposal) -> list[str]:
    told = [f"  modality {modality}: encoder {encoder}" for modality, encoder in proposal.modalities.items()]
    told += [f"  fusion: {proposal.fusion or 'not found'}", f"  head: {proposal.head or 'not found'}"]
    if proposal.unsure:
        told += ["What it could not tell:", *(f"  - {sentence}" for sentence in proposal.unsure)]
    return told


def _need_free(output: Path, force: bool) -> None:
    if os.path.exists(output) and not force:  # noqa: PTH110 - Path's own raises for a name too long
        raise ConfigError(f"{output} is already there: name another with --output, or replace it with --force.")

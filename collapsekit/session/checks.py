"""What is asked of a diagnosis or a repair, checked before anything is read, built or trained."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from collapsekit import registry
from collapsekit.adapters.build import need_factory, need_two
from collapsekit.adapters.live.fields import InputFields
from collapsekit.adapters.live.hints import explain_missing
from collapsekit.adapters.live.unwrap import check_live
from collapsekit.checkpoint.trust import digest_named
from collapsekit.config.imports import import_callable
from collapsekit.config.options import DEFAULT_SPLITS, DiagnoseOptions, RunOptions
from collapsekit.config.schema import Config
from collapsekit.config.values import check_path, kind_name
from collapsekit.context import Options, Progress
from collapsekit.data.base import MissingFieldError, Source, need_key, need_split
from collapsekit.data.episodes.source import is_episodes, read_frames
from collapsekit.data.factory import need_one_origin
from collapsekit.data.headers import Sizes, read_sizes
from collapsekit.data.memory import ORIGIN
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.limits import MEMORY
from collapsekit.io.writable import check_folder, check_room
from collapsekit.registry import ProbeSpec
from collapsekit.tasks.base import Task
from collapsekit.tasks.make import task_of


def check_call(
    options: RunOptions,
    *,
    checkpoint: object,
    config: object,
    progress: object,
    model: object = None,
) -> None:
    """Check what diagnose() and repair() take beside options, and options against this machine.

    Args:
        options: The options of the call.
        checkpoint: What the caller gave as a checkpoint; None: nothing.
        config: What the caller gave as a config.
        progress: What the caller gave as a progress.
        model: What the caller gave as a model at hand; None: nothing.

    Raises:
        ConfigError: For the first that cannot be meant.
    """
    if checkpoint is not None:
        check_path("checkpoint", checkpoint)
    if not isinstance(config, str | os.PathLike | Mapping | Config | None):
        raise ConfigError(f"config is {kind_name(config)}, expected the path of a file or a mapping of its keys.")
    if not isinstance(progress, Progress | None):
        raise ConfigError(f"progress is {kind_name(progress)}, expected a collapsekit.ext.Progress, or False for none.")
    if options.trust_pickle is not None:
        digest_named(options.trust_pickle)
    check_device(current().device(options.device))
    if model is not None:
        check_live(model)


def check_device(device: str) -> None:
    """Raise ConfigError, with the devices there are, where torch does not know or does not have ``device``."""
    there = available_devices()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
        if place.type == "meta" or (place.type == "cpu" and place.index):
            raise RuntimeError("it holds no numbers" if place.type == "meta" else "a CPU has no number")
    except (RuntimeError, AssertionError, ImportError) as e:
        first = (str(e).strip().splitlines() or [type(e).__name__])[0][:200].rstrip(".")
        near = did_you_mean(device, there)
        raise ConfigError(
            f"device {device!r} is not available ({first}){near}: this machine has {', '.join(there)}; use --device cpu."
        ) from None


def available_devices() -> list[str]:
    """List the devices that this machine and this torch have."""
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*there, "mps"] if torch.backends.mps.is_available() else there


def check_diagnosis(
    config: Config,
    source: Source | None,
    chosen: Sequence[ProbeSpec],
    probe_options: Iterable[Options],
    options: DiagnoseOptions,
    *,
    live: bool,
    model: nn.Module | None = None,
) -> None:
    """Check one diagnosis against the config, the code it names and the headers of its data.

    Modules that the config names are imported for that.

    Args:
        config: The config.
        source: Data that are open already; None: those of the config.
        chosen: The probes to run.
        probe_options: The options of every probe.
        options: The options of the call.
        live: Whether the model is at hand.
        model: The model, where it is at hand here, for what messages say of it.

    Raises:
        CollapsekitError: For whatever the caller can mend.
    """
    task = check_parts(config, live=live)
    check_modalities(probe_options, config)
    there = known_sizes(config, source)
    if there is None:
        return
    sizes = check_data(config, task, there, splits_read(there, options.split, chosen), model)
    if options.limit is None:
        check_spill(sizes, MEMORY if options.memory is None else options.memory)


def check_parts(config: Config, *, live: bool) -> Task:
    """Check what the config names that needs neither the checkpoint nor the data: adapter, submodules, task, factories.

    Returns the task. ``live``: whether the model is at hand. Raises ConfigError.
    """
    task = task_of(config)
    if config.adapter == "module":
        need_two(config)
        if not live:
            import_callable(need_factory(config), config.base, "model.factory")
    elif ":" in config.adapter:
        import_callable(config.adapter, config.base, "adapter")
    else:
        registry.get_adapter(config.adapter)
    if config.data.factory is not None:
        import_callable(config.data.factory, config.base, "data.factory")
    return task


def check_modalities(options: Iterable[Options], config: Config, modalities: Sequence[str] | None = None) -> None:
    """Check the modalities that options name.

    Args:
        options: of the probes that run.
        config: the config.
        modalities: those of the adapter, once it is built, as an adapter may know more than the config says.

    Raises:
        ConfigError: for an option that names a modality there is not.
    """
    known = tuple(config.modalities) if modalities is None and config.adapter == "module" else tuple(modalities or ())
    for one in options if known else ():
        one.check_modalities(known)


def check_named(names: Iterable[str], known: Sequence[str]) -> None:
    """Raise ConfigError for a modality that is none of those ``known``; without any, nothing."""
    for name in names if known else ():
        if name not in known:
            raise ConfigError(f"there is no modality {name!r}{did_you_mean(name, known)}: {', '.join(known)}.")


def known_sizes(config: Config, source: Source | None) -> dict[str, dict[str, int] | None] | None:
    """Return bytes of arrays by split and name, where no example has to be read for that.

    It is None for a split that is a loader, and None as a whole where only the user's factory would say. Raises
    ConfigError, RefusedError.
    """
    if source is not None:
        return source.sizes()
    need_one_origin(config)
    if is_episodes(config):
        return dict.fromkeys(read_frames(config))
    return None if config.data.path is None else dict(read_sizes(config.resolve(config.data.path)))


def check_data(
    config: Config,
    task: Task,
    there: Mapping[str, Mapping[str, int] | None],
    splits: Sequence[str],
    model: nn.Module | None = None,
) -> Sizes:
    """Check that the data have the splits to be read, and the arrays of them that the config names.

    Args:
        config: The config.
        task: Its task.
        there: Bytes of arrays by split and name; None of a split that is a loader.
        splits: The splits to be read.
        model: The model, where it is at hand, for what messages say of it.

    Returns:
        Bytes of those arrays by split and name, where they are known; none of another adapter than ``module``, which
        may know more than the config says.

    Raises:
        ConfigError: For a split that there is not.
        DataError: For an array that there is not.
    """
    for split in splits:
        need_split(split, there)
    if config.adapter != "module":  # others may know more than the config says
        return {}
    data = config.data
    keys = [*InputFields(config).read]
    keys += [s.predictions for s in config.modalities.values() if s.predictions is not None]
    keys += [*([data.label] if task.has_labels else []), *filter(None, [data.group, data.category]), *data.match]
    found: Sizes = {}
    for split in splits:
        held = there[split]
        if held is None:
            continue
        try:
            for key in dict.fromkeys(keys):
                need_key(key, held, split, Path(data.path).name if data.path is not None else ORIGIN)
        except MissingFieldError as e:
            raise explain_missing(config, model, e) from None
        found[split] = {key: held[key] for key in dict.fromkeys(keys)}
    return found


def splits_read(there: Iterable[str], wanted: str | None, chosen: Sequence[ProbeSpec]) -> list[str]:
    """List the split to diagnose, and those that probes fit on, where they are there.

    Args:
        there: Names of the splits that there are.
        wanted: The split that is named; None: the first default one that is there.
        chosen: The probes to run.

    Returns:
        Names of splits, the one to diagnose first.
    """
    known = list(there)
    split = next((s for s in DEFAULT_SPLITS if s in known), DEFAULT_SPLITS[0]) if wanted is None else wanted
    fitted = ["train", "val"] if any(spec.trains != "nothing" for spec in chosen) else []
    return [split, *(s for s in fitted if s in known and s != split)]


def check_spill(sizes: Sizes, budget: float) -> None:
    """Raise ConfigError where the inputs alone are more than memory may hold and the temporary folder has room for."""
    beyond = sum(sum(held.values()) for held in sizes.values()) - budget
    if beyond <= 0:
        return
    try:
        folder = tempfile.gettempdir()
    except OSError as e:
        raise ConfigError(f"inputs beyond --memory need a temporary folder ({e.strerror}): set TMPDIR.") from None
    check_folder(folder, "TMPDIR")
    check_room(folder, math.ceil(beyond), "keeping inputs beyond --memory")

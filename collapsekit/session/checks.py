"""What is asked of a diagnosis or a repair, checked before anything is read, built or trained."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from collapsekit import registry
from collapsekit.adapters.build import check_described, need_factory
from collapsekit.adapters.live.unwrap import check_live
from collapsekit.checkpoint.trust import digest_named
from collapsekit.config.imports import import_callable
from collapsekit.config.schema import Config
from collapsekit.context import PROFILES, Options, Progress
from collapsekit.data.base import Source, need_key, need_split
from collapsekit.data.factory import need_one_origin
from collapsekit.data.headers import Sizes, read_sizes
from collapsekit.data.memory import ORIGIN
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.spill import BUDGET
from collapsekit.io.writable import check_folder, check_room
from collapsekit.registry import ProbeSpec
from collapsekit.tasks.base import Task
from collapsekit.tasks.make import make_task

SEEDS = 2**63  # torch's generators, and the config's model.seed, take less
DEFAULT_SPLITS = ("test", "val")  # the first that is there is diagnosed where none is named


def check_arguments(given: Mapping[str, Any]) -> None:
    """Arguments of diagnose() or repair(), by name, one by one. Raises ConfigError for the first that cannot be meant."""
    if "profile" in given and given["profile"] not in PROFILES:
        profile = given["profile"]
        near = did_you_mean(profile, PROFILES) if isinstance(profile, str) else ""
        raise ConfigError(f"there is no profile {profile!r}{near}: {', '.join(PROFILES)}.")
    for name in ("checkpoint", "cache", "output", "tensorboard"):
        _path(name, given.get(name))
    if not isinstance(given.get("config"), str | os.PathLike | Mapping | Config | None):
        raise ConfigError(f"config is {_kind(given['config'])}, expected the path of a file or a mapping of its keys.")
    for name in ("probes", "skip", "plugins", "modalities"):
        _names(name, given.get(name))
    for name in ("split", "trust_pickle"):
        if not isinstance(given.get(name), str | None):
            raise ConfigError(f"{name} is {_shown(given[name])}, expected text.")
    if not isinstance(given.get("progress"), Progress | None):
        raise ConfigError(f"progress is {_kind(given['progress'])}, expected a collapsekit.context.Progress.")
    for name in ("subsets", "control", "keep", "resume", "force"):
        if not isinstance(given.get(name, False), bool):
            raise ConfigError(f"{name} is {given[name]!r}, expected True or False.")
    _whole("seed", given.get("seed", 0), 0, SEEDS)
    if given.get("training_seed") is not None:
        _whole("training_seed", given["training_seed"], 0, SEEDS)
    if given.get("limit") is not None:
        _whole("limit", given["limit"], 1, SEEDS, "example")
    if given.get("memory") is not None:
        check_memory(given["memory"])
    _options(given.get("options"))
    if given.get("trust_pickle") is not None:
        digest_named(given["trust_pickle"])
    if "device" in given:
        if not isinstance(given["device"], str):
            raise ConfigError(f"device is {_shown(given['device'])}, expected text such as 'cpu' or 'cuda:1'.")
        check_device(current().device(given["device"]))
    if given.get("model") is not None:
        check_live(given["model"])


def check_memory(memory: Any) -> None:
    """Raises ConfigError unless ``memory`` is a number of bytes that can be meant."""
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not 0 <= memory < math.inf:
        raise ConfigError(f"memory is {memory!r}, expected a finite number of bytes, 0 or more.")


def check_device(device: str) -> None:
    """Raises ConfigError, with the devices there are, where torch does not know or does not have ``device``."""
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
    """Devices that this machine and this torch have."""
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*there, "mps"] if torch.backends.mps.is_available() else there


def check_diagnosis(
    config: Config,
    source: Source | None,
    chosen: Sequence[ProbeSpec],
    options: Iterable[Options],
    given: Mapping[str, Any],
) -> None:
    """What is asked of one diagnosis (``given``: diagnose()'s arguments by name), against the config, the code it names and
    the headers of its data; modules that it names are imported for that. Raises CollapsekitError."""
    task = check_parts(config, live=given["model"] is not None)
    check_modalities(options, config)
    there = known_sizes(config, source)
    if there is None:
        return
    sizes = check_data(config, task, there, splits_read(there, given["split"], chosen))
    if given["limit"] is None:
        check_spill(sizes, BUDGET if given["memory"] is None else given["memory"])


def check_parts(config: Config, *, live: bool) -> Task:
    """What the config names that needs neither the checkpoint nor the data: adapter, submodules, task, factories; ``live``:
    whether the model is at hand. Raises ConfigError."""
    task = make_task(config.task, metric=config.metric, temperature=config.temperature, base=config.base)
    if config.adapter == "module":
        check_described(config)
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
    """Raises ConfigError for an option that names a modality there is not; ``modalities``: those of the adapter, once it is
    built, as an adapter may know more than the config says."""
    known = tuple(config.modalities) if modalities is None and config.adapter == "module" else tuple(modalities or ())
    for one in options if known else ():
        one.check_modalities(known)


def check_named(names: Iterable[str], known: Sequence[str]) -> None:
    """Raises ConfigError for a modality that is none of those ``known``; without any, nothing."""
    for name in names if known else ():
        if name not in known:
            raise ConfigError(f"there is no modality {name!r}{did_you_mean(name, known)}: {', '.join(known)}.")


def known_sizes(config: Config, source: Source | None) -> dict[str, dict[str, int] | None] | None:
    """Bytes of arrays by split and name, where that is known without reading an example; of a split that is a loader, None.
    None where only the user's factory would say. Raises ConfigError, RefusedError."""
    if source is not None:
        return source.sizes()
    need_one_origin(config)
    return None if config.data.path is None else dict(read_sizes(config.resolve(config.data.path)))


def check_data(
    config: Config, task: Task, there: Mapping[str, Mapping[str, int] | None], splits: Sequence[str]
) -> Sizes:
    """The splits to be read and the arrays of them that the config names; their sizes. Raises ConfigError, DataError."""
    for split in splits:
        need_split(split, there)
    if config.adapter != "module":  # others may know more than the config says
        return {}
    data = config.data
    keys = [k for m, s in config.modalities.items() for k in _inputs(m, s.input, s.mask)]
    keys += [*data.also, *([data.label] if task.has_labels else []), *([data.group] if data.group else [])]
    found: Sizes = {}
    for split in splits:
        held = there[split]
        if held is None:
            continue
        for key in dict.fromkeys(keys):
            need_key(key, held, split, Path(data.path).name if data.path is not None else ORIGIN)
        found[split] = {key: held[key] for key in dict.fromkeys(keys)}
    return found


def splits_read(there: Iterable[str], wanted: str | None, chosen: Sequence[ProbeSpec]) -> list[str]:
    """The split to diagnose, and those that probes fit on, where they are there."""
    known = list(there)
    split = next((s for s in DEFAULT_SPLITS if s in known), DEFAULT_SPLITS[0]) if wanted is None else wanted
    fitted = ["train", "val"] if any(spec.trains != "nothing" for spec in chosen) else []
    return [split, *(s for s in fitted if s in known and s != split)]


def check_spill(sizes: Sizes, budget: float) -> None:
    """Raises ConfigError where the inputs alone are more than memory may hold and the temporary folder has room for."""
    beyond = sum(sum(held.values()) for held in sizes.values()) - budget
    if beyond <= 0:
        return
    try:
        folder = tempfile.gettempdir()
    except OSError as e:
        raise ConfigError(f"inputs beyond --memory need a temporary folder ({e.strerror}): set TMPDIR.") from None
    check_folder(folder, "TMPDIR")
    check_room(folder, math.ceil(beyond), "keeping inputs beyond --memory")


def _inputs(modality: str, own: str | tuple[str, ...] | None, mask: str | None) -> list[str]:
    keys = [modality] if own is None else [own] if isinstance(own, str) else list(own)
    return [*keys, *([mask] if mask is not None else [])]


def _path(name: str, value: Any) -> None:
    if isinstance(value, str | os.PathLike | None):
        return
    more = ": give a live module as model=" if name == "checkpoint" else ""
    raise ConfigError(f"{name} is {_kind(value)}, expected the path of a file or folder{more}.")


def _names(name: str, value: Any) -> None:
    if value is None:
        return
    kinds: tuple[type, ...] = (str, os.PathLike) if name == "plugins" else (str,)
    if (
        isinstance(value, str | bytes)
        or not isinstance(value, Sequence)
        or not all(isinstance(v, kinds) for v in value)
    ):
        raise ConfigError(f"{name} is {_shown(value)}, expected a list of {'paths' if name == 'plugins' else 'names'}.")


def _options(value: Any) -> None:
    if value is None:
        return
    odd = [value]
    if isinstance(value, Mapping):
        odd = [k for k in value if not isinstance(k, str)] + [v for v in value.values() if not isinstance(v, Mapping)]
    if odd:
        raise ConfigError(
            f"options holds {_shown(odd[0])}, expected a mapping of names to options, such as {{'vif': {{...}}}}."
        )


def _whole(name: str, value: Any, least: int, below: int, unit: str = "") -> None:
    if type(value) is int and least <= value < below:
        return
    what = f"at least {least} {unit}".strip() if type(value) is not int or value < least else f"below {below}"
    raise ConfigError(f"{name} is {_shown(value)}, expected a whole number (int), {what}.")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"

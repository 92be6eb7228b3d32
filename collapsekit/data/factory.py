"""The source of examples that a config names: a file of arrays, or the user's factory of loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collapsekit.config.imports import import_callable, importable_from
from collapsekit.config.schema import Config
from collapsekit.data.arrays import ArraySource, by_split, read_arrays
from collapsekit.data.base import SPLITS, Source
from collapsekit.data.episodes.source import is_episodes, read_frames
from collapsekit.data.loaders import BatchForm, LoaderSource
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code


def need_one_origin(config: Config) -> None:
    """Raise ConfigError unless the config says in one way where the data lie."""
    if (config.data.path is None) == (config.data.factory is None):
        raise ConfigError(f"{config.origin} needs exactly one of data.path and data.factory.")
    if config.data.factory is not None and config.data.episodes is not None:
        raise ConfigError(
            f"{config.origin} has data.episodes beside data.factory: it says how a recording in data.path is read, so name "
            "that, or leave data.episodes out."
        )


def make_source(config: Config) -> Source:
    """Make the source that ``config.data`` names. Raises ConfigError, RefusedError."""
    need_one_origin(config)
    data = config.data
    if data.factory is not None:
        made = _call_factory(config)
        made = loaders_of_module(made, f"data.factory {data.factory!r}")
        splits = made if isinstance(made, Mapping) else {s: getattr(made, s) for s in SPLITS if hasattr(made, s)}
        if not splits:
            raise ConfigError(
                f"data.factory {data.factory!r} gave {'an empty mapping' if splits is made else type(made).__name__}, which "
                f"has no splits: return {{'train': ..., 'test': ...}}, or a LightningDataModule."
            )
        return LoaderSource(splits, data.factory, batch_form(config))
    path = config.resolve(str(data.path))
    if is_episodes(config):
        return LoaderSource(read_frames(config), path.name, batch_form(config))
    return ArraySource(by_split(read_arrays(path), path), path.name)


def loaders_of_module(value: Any, what: str) -> Any:
    """Set up a LightningDataModule and take its loaders by split; what is none stays as it is.

    It is known by its methods: nothing of Lightning is imported. Methods that Lightning's own class has, and the module does
    not write, are of splits that it does not have.

    Args:
        value: What the user gave as data.
        what: That, for messages.

    Returns:
        A mapping of splits to loaders, or ``value``.

    Raises:
        ConfigError: Where one of its methods fails, or it has no loader of any split.
    """
    if isinstance(value, Mapping | type) or not callable(getattr(value, "train_dataloader", None)):
        return value
    found = {}
    try:
        with user_code(f"the data module of {what}", stays=True):
            if _writes(value, "prepare_data"):
                value.prepare_data()
            for stage in ("fit", "test") if _writes(value, "setup") else ():
                value.setup(stage)
            for split in SPLITS:
                loader = getattr(value, f"{split}_dataloader")() if _writes(value, f"{split}_dataloader") else None
                if loader is not None:
                    found[split] = loader
    except Exception as e:
        if isinstance(e, CollapsekitError):
            raise
        raise ConfigError(f"the data module of {what} ({type(value).__name__}) failed: {one_line(e)}.") from e
    if not found:
        raise ConfigError(
            f"the data module of {what} ({type(value).__name__}) gave no loader: write its train_dataloader, val_dataloader "
            "or test_dataloader."
        )
    return found


def _writes(module: Any, name: str) -> bool:
    """Whether the module has such a method of its own, rather than Lightning's, which raises or does nothing."""
    method = getattr(module, name, None)
    where = str(getattr(method, "__module__", "")).partition(".")[0]
    return callable(method) and where not in ("lightning", "pytorch_lightning", "lightning_fabric")


def batch_form(config: Config) -> BatchForm:
    """Return what the config says of a loader's batches."""
    return BatchForm(config.batch, config.data.edit == "examples", config.data.padding, config.data.label)


def _call_factory(config: Config) -> Any:
    spec, kwargs = str(config.data.factory), config.data.kwargs
    factory = import_callable(spec, config.base, "data.factory")
    try:
        with user_code(f"data.factory {spec!r}", stays=True), importable_from(config.base):
            return factory(**kwargs)
    except Exception as e:
        raise ConfigError(f"data.factory {spec!r} failed with data.kwargs {kwargs}: {one_line(e)}.") from e

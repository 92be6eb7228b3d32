"""The source of examples that a config names: a file of arrays, or the user's factory of loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collapsekit.config.imports import import_callable, importable_from
from collapsekit.config.schema import Config
from collapsekit.data.arrays import ArraySource, by_split, read_arrays
from collapsekit.data.base import SPLITS, Source
from collapsekit.data.loaders import BatchForm, LoaderSource
from collapsekit.errors import ConfigError
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code


def need_one_origin(config: Config) -> None:
    """Raise ConfigError unless the config says in one way where the data lie."""
    if (config.data.path is None) == (config.data.factory is None):
        raise ConfigError(f"{config.origin} needs exactly one of data.path and data.factory.")


def make_source(config: Config) -> Source:
    """Make the source that ``config.data`` names. Raises ConfigError, RefusedError."""
    need_one_origin(config)
    data = config.data
    if data.factory is not None:
        made = _call_factory(config)
        splits = made if isinstance(made, Mapping) else {s: getattr(made, s) for s in SPLITS if hasattr(made, s)}
        if not splits:
            raise ConfigError(
                f"data.factory {data.factory!r} gave {'an empty mapping' if splits is made else type(made).__name__}, which "
                f"has no splits: return {{'train': ..., 'test': ...}}{of_a_data_module(made)}."
            )
        return LoaderSource(splits, data.factory, batch_form(config))
    path = config.resolve(str(data.path))
    return ArraySource(by_split(read_arrays(path), path), path.name)


def of_a_data_module(value: Any) -> str:
    """Return what to write where data are given as a LightningDataModule, for the end of a message; else nothing."""
    if not hasattr(value, "train_dataloader"):
        return ""
    return (
        " of its loaders: call setup('fit') and setup('test') first, then its train_dataloader(), val_dataloader() and "
        "test_dataloader()"
    )


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

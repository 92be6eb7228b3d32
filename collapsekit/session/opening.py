"""A model opened to be diagnosed: its checkpoint read once, built, its data at hand; all is given back as it was found."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import preserve_rng_state
from collapsekit.adapters.live.preserve import preserve_model
from collapsekit.adapters.live.unwrap import check_live, run_plainly, unwrapped
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.checkpoint.read import Checkpoint, read_checkpoint
from collapsekit.config.imports import import_object
from collapsekit.config.options import DiagnoseOptions, RunOptions
from collapsekit.config.schema import Config
from collapsekit.context import Progress
from collapsekit.data.base import Source
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError
from collapsekit.features.examples import SplitReader, columns_of
from collapsekit.features.extraction import Extraction, Twin
from collapsekit.io.hub import locate
from collapsekit.io.limits import MEMORY
from collapsekit.io.spill import SpillBuffer
from collapsekit.readouts.fit import is_half
from collapsekit.report.repair import is_repaired, structure_of
from collapsekit.session.checks import check_device
from collapsekit.stats.threads import threads_for


def build_adapter(
    config: Config,
    checkpoint: str | Path | None,
    *,
    model: nn.Module | None = None,
    source: Source | None = None,
    device: str = "cpu",
    seed: int = 0,
    trust: str | None = None,
) -> Adapter:
    """Build the adapter the config names, with the checkpoint's weights.

    Args:
        config: what describes the model.
        checkpoint: its weights; None: those the config names.
        model: a module at hand instead of what the factory builds.
        source: data that are open already.
        device: where it runs.
        seed: under which the factory is called.
        trust: "sha256:DIGEST" lets the checkpoint be unpickled, with classes importable from the config's folder.

    Returns:
        The adapter, its model in eval mode.

    Raises:
        CollapsekitError: where there is no checkpoint, it is unsafe or damaged, or does not fit.
    """
    return read_blueprint(config, checkpoint, device=device, seed=seed, trust=trust, live=model is not None).build(
        model, source
    )


@dataclass(frozen=True)
class Blueprint:
    """What a model is built from, as often as it is needed: the config and the checkpoint, which is read once."""

    config: Config
    checkpoint: Checkpoint | None
    device: str
    seed: int

    def build(self, model: nn.Module | None = None, source: Source | None = None) -> Adapter:
        """Build the model with the checkpoint's weights.

        A ``model`` at hand stands for what the factory builds: it gets the weights in a copy, or is taken as it is
        where there is no checkpoint. ``source``: data that are open already.
        """
        config = self.config
        if model is not None:
            check_live(model)
            if self.checkpoint is not None:
                model = copy.deepcopy(unwrapped(model))  # the caller's own weights stay what they are
        # Before hours of work.
        sha256 = None if self.checkpoint is None else self.checkpoint.sha256
        current().assert_same(sha256, "weights in the checkpoint")
        current().assert_same(config.model_dump(mode="json", exclude_defaults=True), "settings in the config")
        make: Any
        if config.adapter == "module":
            make = ModuleAdapter
        elif ":" in config.adapter:
            make = import_object(config.adapter, config.base, "adapter")
        else:
            make = registry.get_adapter(config.adapter).build
        parts = {"checkpoint": self.checkpoint, "model": model, "source": source}
        built = make(config, **parts, device=self.device, seed=self.seed)
        if not isinstance(built, Adapter):
            raise ConfigError(
                f"adapter {config.adapter!r} gave {type(built).__name__}, expected a collapsekit.Adapter."
            )
        return built


def read_blueprint(
    config: Config,
    checkpoint: str | Path | None,
    device: str = "cpu",
    seed: int = 0,
    *,
    trust: str | None = None,
    live: bool = False,
) -> Blueprint:
    """Read the checkpoint, from which the model can then be built as often as it is needed.

    Args:
        config: what describes the model.
        checkpoint: its weights; None: those the config names, or none for a ``live`` model.
        device: where the model will run.
        seed: under which it will be built.
        trust: "sha256:DIGEST" lets the checkpoint be unpickled.
        live: whether a module is at hand.

    Returns:
        The blueprint.

    Raises:
        ConfigError: where there is no checkpoint.
        RefusedError: where it is unsafe or damaged.
    """
    device = current().device(device)
    check_device(device)
    path = locate(checkpoint) if checkpoint is not None else None
    if path is None and config.model.checkpoint is not None and not live:
        path = config.resolve(config.model.checkpoint)
    if path is None and not live:
        raise ConfigError(
            f"no checkpoint was given: name one on the command line or as model.checkpoint in {config.origin}."
        )
    read = None
    if path is not None:
        # What a repair wrote is one set of weights, whatever it began with.
        weights = "model" if is_repaired(path) else config.model.weights
        read = with_base(read_checkpoint(path, trust=trust, folder=config.base, weights=weights), config)
    if path is not None and not config.structure:
        config = config.model_copy(update={"structure": structure_of(path)})
    return Blueprint(config, read, device, seed)


def with_base(read: Checkpoint, config: Config) -> Checkpoint:
    """Return the checkpoint with the base that the config names for it, where it is an adapter.

    Raises ConfigError where a base is named for what is none.
    """
    if config.model.base is None or (read.adapter is None and is_repaired(read.path)):
        return read
    if read.adapter is None:
        raise ConfigError(
            f"{config.origin} names a model.base, and {read.path} is no adapter that is merged into one (a folder with "
            "adapter_config.json): leave `base` out."
        )
    return read.with_base(read_checkpoint(config.resolve(config.model.base), weights=config.model.weights))


@dataclass(frozen=True)
class OpenModel:
    """A model at hand, and the passes that were made of it over its splits; several diagnoses share them."""

    blueprint: Blueprint
    adapter: Adapter
    extraction: Extraction
    config: Config  # as it was given, before anything that a checkpoint says of itself
    memory: int
    progress: Progress
    half: bool  # whether it is in half precision, in which nothing is trained

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Surround passes and probes.

        Random states are given back; the model runs plainly, and on one thread where nobody asks for more.
        """
        with preserve_rng_state(), run_plainly(), threads_for(0):
            yield

    def rebuilt(self) -> Adapter:
        """Build and load the model again from what was read of the checkpoint, for whom changes it."""
        return self.blueprint.build(source=self.adapter.source)

    def passes_of(self, adapter: Adapter) -> Extraction:
        """Return the passes of a model with the weights that this one was opened with.

        They are this one's own where that model is in the same precision, and answers the first batch of a split with
        the same bits.
        """
        if adapter is self.adapter and not self.half:
            return self.extraction
        reader, storage = self.extraction.reader, SpillBuffer(self.memory)
        if self.half:
            return Extraction(adapter, reader, self.progress, storage)
        return Extraction(adapter, reader, self.progress, storage, Twin(self.extraction), self.extraction.rebuilt)

    @contextmanager
    def with_model(
        self, model: nn.Module, config: Config, *, changed: Collection[str] | None = None
    ) -> Iterator[OpenModel]:
        """Open another model of the same subject, one that is at hand: it shares the data as they were read.

        Args:
            model: the module, which is given back as it was found.
            config: what describes it.
            changed: names of its weights that are not what this model had (None: not known). Without any, passes that were
                made stand for its own; where encoders have none of them, what they gave does. Bits have the last word.

        Yields:
            The open model.
        """
        blueprint = replace(self.blueprint, config=config, checkpoint=None)
        with preserve_rng_state(), preserve_model(model), ExitStack() as stack:
            adapter = blueprint.build(model, self.adapter.source)
            stack.callback(adapter.steady)  # before the rest of the model is put back
            reader = self.extraction.reader
            storage = SpillBuffer(self.memory)
            if columns_of(adapter) != reader.columns:
                reader = SplitReader(adapter, reader.limit, reader.seed, storage)
            alike = changed is not None and not self.half and reader is self.extraction.reader
            twin = Twin(self.extraction, frozenset(changed or ())) if alike else None
            extraction = Extraction(adapter, reader, self.progress, storage, twin)
            half = is_half(adapter)
            yield OpenModel(blueprint, adapter, extraction, config, self.memory, self.progress, half)


@contextmanager
def open_model(
    config: Config,
    checkpoint: str | Path | None,
    options: RunOptions,
    *,
    model: nn.Module | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
) -> Iterator[OpenModel]:
    """Open a model with its weights and its data, of which nothing is read yet; the model is given back as it was found.

    Args:
        config: what describes the model and the data.
        checkpoint: its weights; None: those the config names.
        options: device, seed, limit and trust.
        model: a module at hand, which gets the checkpoint's weights in a copy.
        source: data that are open already.
        progress: told of the passes.

    Yields:
        The open model.

    Raises:
        CollapsekitError: for whatever the caller can mend.
    """
    progress, room = progress or Progress(), _room(options)
    with preserve_rng_state(), ExitStack() as stack:
        if model is not None:
            stack.enter_context(preserve_model(model))
        live, trust = model is not None, options.trust_pickle
        blueprint = read_blueprint(config, checkpoint, options.device, options.seed, trust=trust, live=live)
        adapter = blueprint.build(model, source)
        if model is None:
            stack.enter_context(preserve_model(adapter.model))
        stack.callback(adapter.steady)  # before the rest of the model is put back
        storage = SpillBuffer(room)
        reader = SplitReader(adapter, options.limit, options.seed, storage)
        extraction = Extraction(adapter, reader, progress, storage)
        yield OpenModel(blueprint, adapter, extraction, config, room, progress, is_half(adapter))


def _room(options: RunOptions) -> int:
    """Bytes of inputs and features that are kept in memory before more is mapped from files."""
    asked = options.memory if isinstance(options, DiagnoseOptions) else None
    return MEMORY if asked is None else int(asked)

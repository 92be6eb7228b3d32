"""A model that runs on a batch before anybody knows what its modalities are: each field is one, without an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from collapsekit.adapters.live.inputs import run_prepared
from collapsekit.adapters.live.presence import absent_rows
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.pytree import flatten
from collapsekit.autoconfig.running.fields import ROWS, reopened
from collapsekit.config.schema import Config, ModalityConfig
from collapsekit.data.base import Batch, Source

Call = Literal["kwargs", "dict", "positional", "list"]
Edit = Literal["batches", "examples"]
AGAIN = "(again)"  # stands for a second modality where a model has one field


@dataclass(frozen=True)
class CallForm:
    """How a batch reaches the model."""

    call: Call
    keys: tuple[str, ...]  # what it is given, in order
    names: tuple[str, ...] = ()  # of the parts of tuples
    edit: Edit = "batches"
    ordered: bool = False  # whether fields were given by their order, not by name


class FieldRunner(ModuleAdapter):
    """Runs a model with any fields, or parts of fields, as modalities. Its outputs are whatever the model returns, laid
    side by side, so that it needs no task."""

    def _outputs(self, output: Any, inputs: Batch) -> Tensor:
        rows = len(next(iter(inputs.values())))
        return numbers_of(output, rows)

    def answer(self, batch: Batch) -> Any:
        """Run the model on a batch of (n, ...) by key, and return what it returns."""
        return run_prepared(self, self.prepare, batch, self._guarded_forward)


def numbers_of(output: Any, rows: int) -> Tensor:
    """Lay what a model returns side by side: (rows, d) float64 of all tensors in it with one row an example; of none of
    these all numbers, the same in each row."""
    found = [x.detach() for x in flatten(output)[0] if isinstance(x, Tensor) and x.numel()]
    own = [x.reshape(rows, -1).double() for x in found if x.ndim and len(x) == rows]
    if not own:
        own = [x.reshape(1, -1).expand(rows, -1).double() for x in found]
    return torch.cat(own, 1).cpu() if own else torch.zeros(rows, 0, dtype=torch.float64)


def config_of(base: Config, form: CallForm, units: Mapping[str, ModalityConfig], fusion: str | None = None) -> Config:
    """Return the config of a runner.

    Args:
        base: which holds the factory, the data and the folder.
        form: how batches reach the model.
        units: what is moved, by name.
        fusion: where modalities meet; None: not known.

    Returns:
        The config.
    """
    sections = dict(units)
    if len(sections) == 1:
        (name, section), *_ = sections.items()
        sections[f"{name} {AGAIN}"] = section.model_copy(update={"input": section.input or name, "encoder": None})
    taken = {k for m, s in sections.items() for k in keys_of(m, s)}
    also = tuple(k for k in form.keys if k not in taken)
    data = base.data.model_copy(update={"also": also, "edit": form.edit, "label": "(label)"})
    plain = {
        "task": "regression",
        "batch": form.names,
        "call": form.call,
        "fusion": fusion,
        "head": None,
        "output": None,
    }
    return base.model_copy(update={"modalities": sections, "data": data, "adapter": "module", **plain})


def keys_of(name: str, section: ModalityConfig) -> tuple[str, ...]:
    """List the fields of a modality."""
    named = name if section.input is None else section.input
    return (named,) if isinstance(named, str) else tuple(named)


def fields_as_units(keys: Sequence[str]) -> dict[str, ModalityConfig]:
    """Make each field a modality by itself, under its own name."""
    return {k: ModalityConfig(input=k) for k in keys}


@dataclass(frozen=True)
class Ground:
    """What every run of a model is made from: the module, the data, the config that names both, a seed."""

    model: nn.Module
    source: Source
    base: Config
    seed: int = 0
    opened: dict[tuple[tuple[str, ...], Edit], Source] = field(default_factory=dict)  # by the form of batches

    def runner(self, form: CallForm, units: Mapping[str, ModalityConfig], fusion: str | None = None) -> FieldRunner:
        """Make what runs the model.

        Args:
            form: how batches reach it.
            units: the modalities, with encoders where these are known.
            fusion: where they meet; None: not known.

        Returns:
            The runner.

        Raises:
            ConfigError: where the model has no such places.
        """
        config = config_of(self.base, form, units, fusion)
        return FieldRunner(config, model=self.model, source=self.source_for(form), seed=self.seed)

    def source_for(self, form: CallForm) -> Source:
        """Return the data, read as batches reach the model: the same for all runs, as it keeps what does not stack."""
        if not form.names and form.edit == "batches":
            return self.source
        key = form.names, form.edit
        if key not in self.opened:
            self.opened[key] = reopened(self.source, config_of(self.base, form, {}))
        return self.opened[key]

    def with_rows(self, runner: FieldRunner, split: str, most: int) -> Batch:
        """Read the first rows for a runner, of examples that lack nothing where there are some.

        Args:
            runner: whose columns are read.
            split: which examples.
            most: how many, at most.

        Returns:
            (n, ...) by key.
        """
        keys = [k for k in runner.fields.read if k != "(label)"]
        batch = next(iter(runner.source.batches(split, keys, ROWS, ROWS, 0)))
        batch = {**batch, **runner.fields.split(batch)}
        lacking = torch.zeros(len(next(iter(batch.values()))), dtype=torch.bool)
        for key in (k for m in runner.modalities for k in runner.fields.of(m)):
            lacking |= absent_rows(runner, key, batch[key])
        rows = (~lacking).nonzero()[:, 0]
        if len(rows) < 2:
            rows = torch.arange(len(lacking))
        return {k: v[rows[:most]] for k, v in batch.items()}

"""What could be learned from a modality's inputs, asked of the inputs themselves and not of the encoder under suspicion.

One family a function: each gives the sets of features that a linear readout is tried on.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Options
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.readouts.choosing import NUMBERS, ROUGH, ChosenReadout, FeatureSet, choose_features
from collapsekit.readouts.linear import WIDEST, FitSplit, FittedReadout
from collapsekit.stats.linear import fitted_roughly
from collapsekit.stats.random_features import (
    ROWS,
    SAMPLE,
    ConvolutionalFeatures,
    FourierFeatures,
    count_tokens,
    evenly,
    joined,
    laid_out,
    median_distance,
    sketch,
    standardised,
)
from collapsekit.tasks.base import Task
from collapsekit.tasks.grid import Grid

SUMS = 1024  # sums that wide inputs are projected to
DEAR = 2**33  # examples · numbers · the lesser of them, beyond which inputs are projected
FOURIER = 400  # random Fourier features, at most
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)  # of the kernel, in median distances between training examples
KERNELS = 128  # random convolutions
AROUND = ("at the place", "around the place", "around the place, 2 steps far")  # by how many steps
WAVES, LOOKED_AT = 64, 32  # random Fourier features of a place, and examples from which their scales are read
VOCABULARY = 1024  # columns that tokens are counted in
ENOUGH = 0.01  # share of the prior loss that is left of a modality no further family is asked about
ROUNDS, LEAST = (
    (30, 100, 300),
    1e-3,
)  # of boosting; and what trees that are always right leave to all other answers together
REMEMBERED = 16  # fitted readouts kept, of the last diagnoses of the same data


@dataclass(frozen=True)
class RawModality:
    """The inputs of one modality: which keys hold numbers, which hold token ids, and what says which of these count."""

    numbers: tuple[str, ...]
    tokens: tuple[str, ...]
    mask: str | None
    scale: float
    width: int  # numbers an example
    projected: bool  # whether these are too many to be read as they are
    seed: int

    @classmethod
    def of(cls, adapter: Adapter, at: FitSplit, modality: str, seed: int) -> RawModality:
        """Look at the inputs of a modality.

        Args:
            adapter: the model, which knows which inputs are whose.
            at: the examples to fit on.
            modality: whose inputs.
            seed: of whatever is drawn.

        Returns:
            Which inputs are read, and how. Whole numbers of one or two axes are both: numbers and ids.
        """
        section, train = adapter.config.modalities[modality], at.train
        inputs = {k: train.numbers(k) for k in adapter.input_keys(modality) if k in train.inputs}
        keys = [k for k in inputs if inputs[k][0].numel()]
        values = [k for k in keys if k != section.mask] or keys  # a mask alone is all there is to read
        tokens = [k for k in values if not inputs[k].is_floating_point() and inputs[k].ndim <= 2]
        mask = section.mask if section.mask in keys and section.mask not in values else None
        rows, width = len(at.fit), sum(inputs[k][0].numel() for k in values)
        projected = width > SUMS and (width > WIDEST or rows * width * min(rows, width) > DEAR)
        return cls(tuple(values), tuple(tokens), mask, section.scale, width, projected, seed)

    def flat(self, features: Features) -> Tensor:
        """Return all numbers of an example in a row, (n, d), as the model is given them, or projected at random."""
        known, key = features.facts.projected, (self.numbers, self.scale, self.seed)
        if key in known:
            return known[key]
        parts = []
        for rows in torch.arange(len(features)).split(ROWS):
            x = joined([features.numbers(k).index_select(0, rows) for k in self.numbers]) / self.scale
            parts.append(sketch(x, SUMS, self.seed) if self.projected else x)
        if self.projected:  # every family asks for them, and they take long to make
            return known.setdefault(key, torch.cat(parts))
        return torch.cat(parts)


Family = Callable[[RawModality, FitSplit], Iterator[FeatureSet]]


def read_numbers(raw: RawModality, at: FitSplit) -> Iterator[FeatureSet]:
    """Yield the numbers themselves."""
    del at
    yield FeatureSet(f"inputs of {raw.width} numbers projected at random" if raw.projected else "inputs", raw.flat)


def read_fourier(raw: RawModality, at: FitSplit) -> Iterator[FeatureSet]:
    """Yield random Fourier features of the numbers, at several bandwidths of the kernel."""
    sample = raw.flat(at.train)[evenly(at.fit, SAMPLE)]
    middle = median_distance(standardised(sample, sample))
    count = min(FOURIER, max(32, len(at.fit)))
    for multiple in BANDWIDTHS:
        drawn = FourierFeatures.draw(sample.shape[1], count, multiple * middle, raw.seed)

        def of(features: Features, drawn: FourierFeatures = drawn) -> Tensor:
            return drawn(standardised(raw.flat(features), sample))

        yield FeatureSet(f"inputs, bandwidth {multiple:g} median distances", of)


def read_convolutions(raw: RawModality, at: FitSplit) -> Iterator[FeatureSet]:
    """Yield random convolutions of inputs that lie along one or two axes, in every way they may be laid out."""
    for key in raw.numbers:
        if key in at.train.described and at.train.described[key].ndim == 2:
            continue  # numbers in no order
        for which, x in enumerate(laid_out(at.train.numbers(key))):
            drawn = ConvolutionalFeatures.draw(x[evenly(at.fit, SAMPLE)], KERNELS, raw.seed)
            if drawn is None:
                continue

            def of(
                features: Features, key: str = key, which: int = which, drawn: ConvolutionalFeatures = drawn
            ) -> Tensor:
                return drawn(laid_out(features.numbers(key))[which])

            shape = " x ".join(map(str, x.shape[2:]))
            yield FeatureSet(f"inputs as {x.shape[1]} channels along {shape} positions", of)


def read_tokens(raw: RawModality, at: FitSplit) -> Iterator[FeatureSet]:
    """Yield counts of token ids: wherever they stand, and by place."""
    if not raw.tokens:
        return
    for placed in (False, True):
        there = _counts(raw, at.train, placed)[at.fit] > 0
        columns = (there.sum(0) > 1).nonzero()[:, 0]  # of a token seen once nothing is learned
        if not len(columns):
            continue

        def of(features: Features, placed: bool = placed, columns: Tensor = columns) -> Tensor:
            return _counts(raw, features, placed)[:, columns]

        yield FeatureSet("tokens counted by place" if placed else "tokens counted", of)


def _counts(raw: RawModality, features: Features, placed: bool) -> Tensor:
    keep = None if raw.mask is None else features.inputs[raw.mask] > 0
    parts = []
    for key in raw.tokens:
        ids = features.inputs[key].reshape(len(features), -1)
        counted = None if keep is None or keep[0].numel() != ids.shape[1] else keep
        parts.append(count_tokens(ids, counted, VOCABULARY, raw.seed, placed=placed))
    return joined(parts)


def read_places(raw: RawModality, at: FitSplit, grid: Grid) -> Iterator[FeatureSet]:
    """Yield numbers at and around each place of a dense output, and random Fourier features of these.

    Args:
        raw: the modality's inputs.
        at: the examples from which scales are read.
        grid: the output's places.

    Yields:
        Features of places side by side, (n, P · d).
    """
    count = len(grid.places)
    for key in raw.numbers:
        if not grid.fits(as_maps(at.train.numbers(key)[:1], grid).shape):
            continue

        def around(features: Features, reach: int, key: str = key) -> Tensor:
            return grid.neighbours(as_maps(features.numbers(key), grid) / raw.scale, reach)

        for reach, where in enumerate(AROUND):
            yield FeatureSet(f"inputs {where}", lambda f, reach=reach: around(f, reach).flatten(1), count)  # type: ignore[misc]
        some = evenly(at.fit, LOOKED_AT)
        sample = grid.neighbours(as_maps(at.train.inputs[key][some], grid) / raw.scale, 1).flatten(0, 1)
        sample = sample[evenly(torch.arange(len(sample)), SAMPLE)]
        middle = median_distance(standardised(sample, sample))
        drawn = FourierFeatures.draw(sample.shape[1], WAVES, middle, raw.seed)

        def waves(
            features: Features,
            around: Callable[[Features, int], Tensor] = around,
            drawn: FourierFeatures = drawn,
            sample: Tensor = sample,
        ) -> Tensor:
            x = around(features, 1)
            return drawn(standardised(x.flatten(0, 1), sample)).reshape(len(x), -1)

        yield FeatureSet(f"random Fourier features of inputs {AROUND[1]}", waves, count)


def as_maps(x: Tensor, grid: Grid) -> Tensor:
    """Lay inputs (n, ...) out as maps (n, c, *s), channels being the axis that is left beside the output's."""
    if x.ndim == len(grid.space) + 1:
        return x[:, None].float()
    last = tuple(x.shape[1:-1]) == grid.space and tuple(x.shape[2:]) != grid.space
    return (x.movedim(-1, 1) if last else x).float()


class ReadoutOptions(Options):
    """How raw inputs are read out; set under the name of the probe utilisation."""

    boosting: bool = Field(default=False, description="also try gradient boosting of the raw inputs (scikit-learn)")

    @field_validator("boosting")
    @classmethod
    def _installed(cls, value: bool) -> bool:
        if value and find_spec("sklearn") is None:
            raise ValueError("needs scikit-learn, which is not installed: pip install 'collapsekit[boosting]'")
        return value


@dataclass(frozen=True)
class BoostedTrees:
    """Gradient boosting of decision trees (Friedman 2001; scikit-learn's histogram form), one model an output or a class."""

    task: Task
    width: int
    models: Sequence[Any]

    @classmethod
    def fit(cls, task: Task, x: Tensor, targets: Tensor, width: int, how: Mapping[str, Any]) -> BoostedTrees | None:
        """Fit trees.

        Args:
            task: classification, multilabel or regression.
            x: inputs, (f, d).
            targets: as the task checks them, (f, ...).
            width: how many values an expectation has.
            how: arguments of scikit-learn's models.

        Returns:
            The models; None for other tasks.
        """
        ensemble: Any = import_module("sklearn.ensemble")
        Classifier, Regressor = ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor
        inputs, y = x.numpy(), targets.numpy()
        if task.name == "classification":
            return cls(task, width, [Classifier(**how).fit(inputs, y)])
        kinds = {"multilabel": Classifier, "regression": Regressor}
        if task.name not in kinds:
            return None
        models: list[Any] = []
        for column in y.reshape(len(y), -1).T:
            known = ~np.isnan(column)
            values = column[known]
            varies = len(set(values.tolist())) > 1
            constant = float(values[0]) if len(values) else 0.0
            models.append(kinds[task.name](**how).fit(inputs[known], values) if varies else constant)
        return cls(task, width, models)

    def predict(self, x: Tensor) -> Tensor:
        """Compute natural values (n, C) of inputs (n, d); nothing is held to be impossible."""
        inputs = x.float().numpy()
        if self.task.name == "classification":
            found = torch.zeros(len(x), self.width, dtype=torch.float64)
            found[:, torch.as_tensor(self.models[0].classes_).long()] = torch.as_tensor(
                self.models[0].predict_proba(inputs)
            )
            return self.task.to_natural((1 - LEAST) * found + LEAST / self.width)
        columns = [torch.full((len(x),), m) if isinstance(m, float) else self._column(m, inputs) for m in self.models]
        values = torch.stack([c.double() for c in columns], 1)
        if self.task.name == "multilabel":
            values = (1 - LEAST) * values + LEAST / 2
        return self.task.to_natural(values)

    def _column(self, model: Any, inputs: Any) -> Tensor:
        if self.task.name == "multilabel":
            return torch.as_tensor(model.predict_proba(inputs)[:, 1])
        return torch.as_tensor(model.predict(inputs))


def fit_boosting(task: Task, at: FitSplit, raw: RawModality) -> ChosenReadout | None:
    """Boost trees on the numbers of a modality, as many rounds as do best on held-out examples.

    Args:
        task: what is read out.
        at: which examples are fitted on, and which choose.
        raw: the modality's inputs.

    Returns:
        The readout; None for a task that trees are not fitted for.
    """
    x, held = raw.flat(at.train), raw.flat(at.held)[at.choose]
    rows, best = evenly(at.fit, NUMBERS // max(1, x.shape[1])), None
    for rounds in ROUNDS:
        how = {"max_iter": rounds, "random_state": raw.seed, "early_stopping": False}
        trees = BoostedTrees.fit(task, x[rows], at.train.targets[rows], at.width, how)
        if trees is None:
            return None
        expected = task.expect(trees.predict(held))
        loss = float(task.loss(expected, at.held_targets).mean())
        if best is None or loss < best.loss:
            best = FittedReadout(loss, 0.0, trees, expected)
    assert best is not None
    described = FeatureSet("inputs projected at random" if raw.projected else "inputs", raw.flat)
    return ChosenReadout(described, x.shape[1], best, task.expect(best.readout.predict(x)))


BOOSTING = "gradient boosting"
FAMILIES: dict[str, Family] = {
    "raw numbers": read_numbers,
    "random Fourier features": read_fourier,
    "random convolutions": read_convolutions,
    "token counts": read_tokens,
}


@dataclass(frozen=True)
class _Remembered:
    """Readouts of the raw inputs in these very tensors."""

    inputs: tuple[weakref.ref[Tensor], ...]
    readouts: dict[str, ChosenReadout]

    def of(self, inputs: Sequence[Tensor]) -> bool:
        """Whether these are the tensors."""
        return all(ref() is x for ref, x in zip(self.inputs, inputs, strict=True))


_REMEMBERED: OrderedDict[tuple[object, ...], _Remembered] = OrderedDict()


def fit_families(
    adapter: Adapter, at: FitSplit, modality: str, seed: int, options: ReadoutOptions | None = None
) -> dict[str, ChosenReadout]:
    """Fit a linear readout of each family of features of a modality's inputs, without its encoder.

    They do not depend on the model, so the last ones are remembered for other models on the same examples.

    Args:
        adapter: the model, for its task and for which inputs are whose.
        at: which examples are fitted on, and which choose.
        modality: whose inputs.
        seed: of whatever is drawn.
        options: which families are tried beside those that always are.

    Returns:
        The readouts by family; of those that the inputs allow, and whose fit converges.
    """
    boosting = bool(options and options.boosting)
    raw, key, inputs = _known_by(adapter, at, modality, seed, boosting)
    known = _REMEMBERED.get(key)
    if known is None or not known.of(inputs):
        made = _fit_families(adapter.task, at, raw, boosting)
        known = _REMEMBERED[key] = _Remembered(tuple(map(weakref.ref, inputs)), made)
        while len(_REMEMBERED) > REMEMBERED:
            _REMEMBERED.popitem(last=False)
    _REMEMBERED.move_to_end(key)
    return known.readouts


def recall_families(adapter: Adapter, at: FitSplit, modality: str, seed: int) -> dict[str, ChosenReadout]:
    """Return the readouts of raw inputs that an earlier diagnosis fitted on the same examples; none where none did.

    Args:
        adapter: the model, for its task and for which inputs are whose.
        at: which examples are fitted on, and which choose.
        modality: whose inputs.
        seed: of whatever is drawn.

    Returns:
        The readouts by family, as ``fit_families`` gave them.
    """
    for boosting in (False, True):
        _, key, inputs = _known_by(adapter, at, modality, seed, boosting)
        known = _REMEMBERED.get(key)
        if known is not None and known.of(inputs):
            return known.readouts
    return {}


def _known_by(
    adapter: Adapter, at: FitSplit, modality: str, seed: int, boosting: bool
) -> tuple[RawModality, tuple[object, ...], list[Tensor]]:
    """A modality's inputs, what readouts of them are remembered by, and the tensors that have to be these very ones."""
    raw, task = RawModality.of(adapter, at, modality, seed), adapter.task
    rows = (len(at.fit), int(at.fit.sum()), len(at.choose), int(at.choose.sum()))
    inputs = [f.inputs[k] for f in (at.train, at.held) for k in (*raw.numbers, *filter(None, [raw.mask]))]
    key = (
        raw,
        boosting,
        type(task),
        task.name,
        task.loss_name,
        at.width,
        at.train.digest,
        at.held.digest,
        rows,
        tuple(map(id, inputs)),
    )
    return raw, key, inputs


def _fit_families(task: Task, at: FitSplit, raw: RawModality, boosting: bool) -> dict[str, ChosenReadout]:
    found: dict[str, ChosenReadout] = {}
    constant = task.prior(at.targets, at.width).expand(len(at.choose), -1)
    little = ENOUGH * float(task.loss(constant, at.held_targets).mean())
    families = dict(FAMILIES)
    if task.grid is not None:
        families = {"inputs place by place": partial(read_places, grid=task.grid), **families}
    for name, family in families.items():
        if any(chosen.fitted.loss <= little for chosen in found.values()):
            break  # hardly anything is left to gain
        sets = list(family(raw, at)) if raw.numbers else []
        if sets:
            with suppress(NumericsError), fitted_roughly(ROUGH):  # a fit that does not converge says nothing
                found[name] = choose_features(task, at, sets, finalists=1)
    trees = fit_boosting(task, at, raw) if boosting and raw.numbers else None
    return found if trees is None else {**found, BOOSTING: trees}

"""noise: the task under growing uniform noise on one modality at a time, at its input and at its features."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from pydantic import Field, field_validator
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import seed_everything
from collapsekit.context import Options
from collapsekit.errors import NumericsError
from collapsekit.features.batching import chunk_of
from collapsekit.features.content_seeds import modality_seeds
from collapsekit.interventions.edits import unread_inputs
from collapsekit.interventions.replay import predict
from collapsekit.measures import Finding, Measure, Panel, Picture, Quantity, declare
from collapsekit.probes._shared import banded_curve, estimate, metric_count
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.noise import Spread, area, spread
from collapsekit.stats.threads import threads_for
from collapsekit.tasks.scoring import leave_out_metric

SOURCE = (
    "noise levels after Chaudhuri et al. 2025, Section 4.3 and Figures 7 and 8, which corrupt the weakest modality in "
    "training and do not say what the levels are relative to"
)
CHEAP = 1e11  # uses of a weight: some seconds of an encoder that reads one vector an example
SHARE = 0.1  # of the pass over all examples
SPREADS: dict[Spread, str] = {
    "range": "largest minus smallest value over the examples, of the entry of the tensor where that is largest",
    "deviation": "root mean square over the tensor's entries of their standard deviation over the examples",
}
INPUT = "input (its encoder runs again; values are not clipped)"
FEATURE = "recorded features (every floating tensor of them)"

AREA = (
    "area under {metric} over the noise level (trapezoid rule, from 0 to {last:g}) divided by what it is if {metric} stays "
    "as it is without noise: 1 = unaffected; noise uniform between -a and a, a = level times spread, added to the "
    "modality's {place}; spread: {spread}; mean over {draws} noise fields, each multiplied by all levels"
)
AT_INPUT = declare(
    Measure(
        "noise.input",
        definition=AREA,
        source=SOURCE,
        unit="ratio",
        title="Task metric under noise at a modality's input",
        figure="lines",
        side_by_side=True,
    )
)
AT_FEATURE = declare(
    Measure(
        "noise.feature",
        definition=AREA,
        source=SOURCE,
        unit="ratio",
        title="Task metric under noise at a modality's features",
        figure="lines",
        side_by_side=True,
    )
)


PICTURES = (
    Picture(
        "noise",
        "When a modality is noisy",
        (
            Panel(
                "{metric}", {"": "noise.input"}, title="Noise at the input", along="noise level (part of the spread)"
            ),
            Panel(
                "{metric}",
                {"": "noise.feature"},
                title="Noise at the features",
                along="noise level (part of the spread)",
                shared=True,
            ),
        ),
        (
            Finding(
                "beyond",
                "noise.input",
                {
                    "clear": "Noise at the input of {modality} leaves {value} times the {metric}, over all levels.",
                    "unclear": "Noise at the input of no modality clearly lowers the {metric}.",
                },
                side="below",
                limit=1.0,
            ),
            Finding(
                "beyond",
                "noise.feature",
                {
                    "clear": "Noise at the features of {modality} leaves {value} times the {metric}, over all levels.",
                    "unclear": "Noise at the features of no modality clearly lowers the {metric}.",
                },
                side="below",
                limit=1.0,
            ),
        ),
    ),
)


class NoiseOptions(Options):
    """Options of the noise probe."""

    levels: tuple[float, ...] = Field(
        default=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5), description="amplitudes of the noise, as parts of the spread"
    )
    draws: int = Field(default=3, gt=0, description="noise fields the metric is averaged over")
    spread: Spread = Field(default="range", description="what a level is a part of: range, or deviation")
    inputs: bool | None = Field(
        default=None, description="also at the input, which runs the encoders again; default: where that is cheap"
    )
    examples: int = Field(default=512, gt=1, description="at most so many examples go through the encoders again")

    @field_validator("levels")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < level < math.inf for level in value):
            raise ValueError("needs at least one level, all above 0 and finite")
        return tuple(sorted(set(value)))


@dataclass(frozen=True)
class _Noisy:
    """Tensors of one modality to which noise is added, and what the model makes of them."""

    tensors: tuple[Tensor, ...]  # first axis the example
    spreads: tuple[float, ...]  # of each; 0: it stays as it is
    answer: Callable[[tuple[Tensor, ...]], Tensor]  # outputs (n, ...) for other values of them

    def at(self, level: float, fields: tuple[Tensor, ...]) -> Tensor:
        """Outputs with ``fields``, uniform on (-1, 1), added times ``level`` times the spread."""
        given = []
        for t, size, field in zip(self.tensors, self.spreads, fields, strict=True):
            noisy = t + level * size * field if size else t
            given.append(noisy.to(t.dtype) if t.is_floating_point() else noisy)
        outputs = self.answer(tuple(given))
        if not bool(torch.isfinite(outputs).all()):
            raise NumericsError(f"the model's output is not finite under noise of level {level:g}: use smaller levels")
        return outputs


def estimate_cost(preview: Preview) -> Cost:
    """Cost a replay without noise and one for each level and draw, at the features, and at the input where that is
    affordable."""
    options, n = preview.options_of("noise", NoiseOptions), preview.size
    runs, few, cost = 1 + options.draws * len(options.levels), min(options.examples, n), Cost()
    for m in preview.modalities:
        if options.inputs is not False:
            with contextlib.suppress(NumericsError):  # it is skipped
                _, encoders = _inputs_of(preview.session, m, options, few, n)
                cost += Cost(encodings=len(encoders) * runs * few, replays=runs * few)
        cost += preview.inputs_tried() + Cost(replays=runs * n)
    return cost


@probe(
    "noise",
    title="When a modality is noisy",
    place=110,
    pictures=PICTURES,
    summary="task metric under uniform noise on one modality at a time, at its input and at its features",
    definition="area under the task metric over the noise level, relative to the metric without noise",
    source=SOURCE,
    cannot="a modality that others repeat can be robust and used; levels compare tensors only by their spread",
    options=NoiseOptions,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Measure the task under growing uniform noise on one modality at a time, at its input and at its features.

    Levels are those of Chaudhuri et al. 2025 (Section 4.3 and Figures 7 and 8), here as parts of the spread of the tensor
    that gets the noise.

    Yields:
        By modality and place the metric over the level of noise, and the area under it relative to the metric without.
    """
    options, features = session.options_of("noise", NoiseOptions), session.features
    seeds = modality_seeds(session.adapter, features, session.seed)
    few = options.examples < len(features)
    some = session.on(features.taken(torch.arange(options.examples))) if few else session
    fields = {"metric": session.task.metric_name, "last": options.levels[-1], "draws": options.draws}
    fields["spread"] = SPREADS[options.spread]
    for i, m in enumerate(features.modalities):
        if options.inputs is not False:
            said = [_shared(session.adapter, m)]
            if few:
                said.append(f"on {len(some.features)} of {len(features)} examples (noise.examples)")
            at_input = partial(_at_input, some, m, options, len(features))
            yield _measured(AT_INPUT.fill(**fields, place=INPUT), m, at_input, some, seeds[m], said)
        at_features = partial(_at_features, session, m, options)
        yield _measured(AT_FEATURE.fill(**fields, place=FEATURE), m, at_features, session, seeds[m], [])
        session.progress.step("noise on modalities", i + 1, len(features.modalities))


def _affordable(adapter: Adapter, encoders: list[str], runs: int, rows: int, examples: int) -> None:
    """Raises NumericsError where running ``encoders`` again on ``rows`` of ``examples`` so many times costs much beside the
    pass over all: each weight is reckoned to be used once an example, which the rows of a sequence do many times."""
    weights = sum(p.numel() for m in encoders for p in adapter.encoder_module(m).parameters())
    if runs * rows * weights > CHEAP and runs * rows > SHARE * examples:
        raise NumericsError(
            f"it runs encoders of {weights / 1e6:.0f} million weights {runs} times on {rows} examples, "
            f"{runs * rows / examples:.1f} times what the pass over all {examples} cost them: ask for it with "
            "noise.inputs=true"
        )


def _inputs_of(
    session: Session, modality: str, options: NoiseOptions, rows: int, examples: int
) -> tuple[list[str], list[str]]:
    """Keys of the modality's raw inputs that noise can be added to, and the modalities whose encoders read them; of
    ``examples`` so many ``rows`` get it. Raises NumericsError where there are none, or it would cost much unasked."""
    adapter, features = session.adapter, session.features
    section = adapter.config.modalities[modality]
    read = set(adapter.input_keys(modality))
    encoders = [m for m in features.modalities if read & set(adapter.input_keys(m))]
    if options.inputs is None:
        _affordable(adapter, encoders, options.draws * len(options.levels), rows, examples)
    keys = [k for k in adapter.input_keys(modality) if k != section.mask and k not in features.described]
    kinds = {k: features.inputs[k].dtype for k in keys}
    fit = [k for k, kind in kinds.items() if kind.is_floating_point or (section.scale != 1.0 and kind != torch.bool)]
    if not keys:
        raise NumericsError("its inputs do not stack into one tensor, such as text, so noise cannot be added to them")
    if not fit:
        listed = ", ".join(f"{k!r} {str(kind).removeprefix('torch.')}" for k, kind in kinds.items())
        raise NumericsError(
            f"its inputs are whole numbers without a `scale` in the config ({listed}), such as token ids, to which "
            "noise cannot be added"
        )
    return fit, encoders


def _at_input(session: Session, modality: str, options: NoiseOptions, examples: int) -> _Noisy:
    """The modality's raw inputs; whole numbers become floats where the config says how they are scaled. Only encoders that
    read them run again; ``examples``: of how many these are."""
    adapter, features = session.adapter, session.features
    fit, encoders = _inputs_of(session, modality, options, len(features), examples)

    def answer(given: tuple[Tensor, ...]) -> Tensor:
        inputs = {**features.inputs, **dict(zip(fit, given, strict=True))}
        outputs = []
        weights = sum(p.numel() for p in adapter.model.parameters())
        with torch.no_grad(), threads_for(2.0 * chunk_of(features) * weights):
            for rows in torch.arange(len(features)).split(chunk_of(features)):
                seed_everything(0)  # as in a replay
                others = {m: tuple(t[rows] for t in r) for m, r in features.recorded.items() if m not in encoders}
                found = adapter.outputs_of(others, {k: v[rows] for k, v in inputs.items()})
                outputs.append(found.float().cpu())
        return torch.cat(outputs)

    return _noisy(tuple(features.inputs[k] for k in fit), options, answer)


def _at_features(session: Session, modality: str, options: NoiseOptions) -> _Noisy:
    """The modality's recordings; those that are not floating stay."""
    adapter, features = session.adapter, session.features
    unread_inputs(adapter, features)  # holds whatever is recorded

    def answer(given: tuple[Tensor, ...]) -> Tensor:
        return predict(adapter, features.changed({**features.recorded, modality: given})).outputs

    return _noisy(features.recorded[modality], options, answer, floating=True)


def _noisy(
    tensors: tuple[Tensor, ...],
    options: NoiseOptions,
    answer: Callable[[tuple[Tensor, ...]], Tensor],
    floating: bool = False,
) -> _Noisy:
    sizes = []
    for t in tensors:
        size = spread(t, options.spread) if t.is_floating_point() or not floating else 0.0
        sizes.append(size if math.isfinite(size) else 0.0)  # -inf in a recorded attention mask is no measurement
    if not any(sizes):
        raise NumericsError("its values do not vary, so there is no spread to take a part of")
    return _Noisy(tensors, tuple(sizes), answer)


def _shared(adapter: Adapter, modality: str) -> str | None:
    """Which other modalities read the same inputs, and so get the same noise."""
    keys = set(adapter.input_keys(modality))
    others = [m for m in adapter.modalities if m != modality and keys & set(adapter.input_keys(m))]
    return f"the same input is read by {', '.join(sorted(others))}" if others else None


def _measured(
    quantity: Quantity,
    modality: str,
    make: Callable[[], _Noisy],
    session: Session,
    seed: int,
    notes: list[str | None],
) -> Result:
    """Metric over the levels with noise at one place, and the area under it."""
    options = session.options_of("noise", NoiseOptions)
    metric = session.task.metric_name
    try:
        values = _over_levels(make(), session, options, seed)
    except NumericsError as e:
        return quantity.skipped(str(e), modality=modality, unit=True)
    levels = (0.0, *options.levels)
    bounds, count = session.task.metric_bounds, metric_count(session)
    curve = banded_curve(levels, values, "noise level (part of the spread)", metric, session.level, bounds, count)
    try:
        share = area(levels, values)
    except NumericsError:
        notes = [*notes, f"no area: {metric} without noise is not above 0 whichever examples are left out"]
        return quantity.curve(curve, modality=modality, note="; ".join(filter(None, notes)))
    note = "; ".join(filter(None, notes)) or None
    return quantity.result(*estimate(share, session.level), curve=curve, modality=modality, note=note)


def _over_levels(noisy: _Noisy, session: Session, options: NoiseOptions, seed: int) -> Tensor:
    """Metric over all examples and without each group, mean over draws, at no noise and each level: (1 + L, 1 + G)."""
    task, groups, y = session.task, session.features.groups, session.features.targets

    def metric(outputs: Tensor) -> Tensor:
        return leave_out_metric(task, task.expect(outputs), y, groups)

    generator = torch.Generator().manual_seed(seed)
    clean = metric(noisy.answer(noisy.tensors))
    rows = []
    for _ in range(options.draws):
        sizes = [t.shape if s else (0,) for t, s in zip(noisy.tensors, noisy.spreads, strict=True)]
        fields = tuple(torch.rand(size, generator=generator) * 2 - 1 for size in sizes)
        rows.append(torch.stack([metric(noisy.at(level, fields)) for level in options.levels]))
    return torch.cat([clean[None], torch.stack(rows).mean(0)])

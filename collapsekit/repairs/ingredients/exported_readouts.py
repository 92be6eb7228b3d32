"""Readouts of one modality that can stand in an exported model: linear, of pooled features, of the numbers that enter the
encoder, or of fixed random features of these. Counts of tokens, boosted trees and encoders trained alone cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.inserts import LAYOUTS, LateReadout, features_in
from collapsekit.adapters.pooling import Channels
from collapsekit.errors import ConfigError, NumericsError
from collapsekit.features.features import Features
from collapsekit.io.transfer import to_cpu
from collapsekit.readouts.choosing import ROUGH, ChosenReadout, FeatureSet, choose_features
from collapsekit.readouts.linear import WIDEST, FitSplit, UnimodalReadout
from collapsekit.readouts.raw import BANDWIDTHS, DEAR, FOURIER, KERNELS, SUMS, recall_families
from collapsekit.readouts.strength import OWN_ENCODER, TriedReadout, weigh_readouts
from collapsekit.repairs.training.job import CHUNK, Job
from collapsekit.stats.linear import Linear, fitted_roughly
from collapsekit.stats.random_features import (
    SAMPLE,
    ConvolutionalFeatures,
    FourierFeatures,
    evenly,
    laid_out,
    median_distance,
)

NUMBERS, FOURIER_FEATURES, CONVOLUTIONS = "raw numbers", "random Fourier features", "random convolutions"
READS = {NUMBERS: "numbers", FOURIER_FEATURES: "fourier", CONVOLUTIONS: "convolutions"}
POOLS = ("mean", "max")
FEW = 16  # examples by which it is told whether the diagnosis read the same numbers


@dataclass(frozen=True)
class ExportedReadout:
    """A fitted readout: what of an insert's record it decides, its buffers, and its linear model."""

    record: dict[str, Any]
    drawn: dict[str, Tensor]
    linear: Linear
    held: Tensor  # expectations of held-out examples (v, ...)
    described: str


@dataclass
class Passed:
    """What one pass over both splits left, of the model as it is now: by split and modality what its encoder gave, channels
    last, and what entered it (None: no one tensor of numbers did); outputs (v, ...) of the held-out examples."""

    at: FitSplit
    features: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    entering: dict[str, dict[str, Tensor | None]] = field(default_factory=dict)
    argument: dict[str, str | int | None] = field(default_factory=dict)
    layouts: dict[str, Channels] = field(default_factory=dict)  # where features have their channels
    outputs: Tensor = field(default_factory=lambda: torch.zeros(0))


def pass_through(job: Job, names: Sequence[str]) -> Passed:
    """Run the model over training and held-out examples, and keep what passes the encoders of some modalities.

    Args:
        job: The repair's job.
        names: The modalities.

    Returns:
        What passed, on the CPU.
    """
    seen, adapter = Passed(job.at), job.adapter
    adapter.model.eval()
    heard: dict[str, list[tuple[Any, Any, Any]]] = {m: [] for m in names}
    handles = [_listen(adapter.encoder_module(m), heard[m]) for m in names]
    try:
        for features in (job.at.train, job.at.held):
            outputs = []
            for rows in torch.arange(len(features)).split(CHUNK):
                with torch.no_grad():
                    outputs.append(adapter.run_live({k: v[rows] for k, v in features.inputs.items()}).outputs.cpu())
            if features is job.at.held:
                seen.outputs = torch.cat(outputs)[job.at.choose]
            for m, calls in heard.items():
                _keep(job, seen, m, features.split, calls)
                calls.clear()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _listen(encoder: nn.Module, heard: list[tuple[Any, Any, Any]]) -> Any:
    return encoder.register_forward_hook(
        lambda _module, args, kwargs, output: heard.append((args, kwargs, output)), with_kwargs=True
    )


def _keep(job: Job, seen: Passed, modality: str, split: str, calls: Sequence[tuple[Any, Any, Any]]) -> None:
    section = job.adapter.config.modalities[modality]
    as_laid_out = {"modality": modality, "part": section.select, "channels": "last"}
    layout = job.adapter.layout(modality, features_in(calls[0][2], as_laid_out))
    record, seen.layouts[modality] = {**as_laid_out, "channels": layout}, layout
    parts = to_cpu(features_in(output, record).float() for _, _, output in calls)
    seen.features.setdefault(modality, {})[split] = torch.cat(parts)
    key = _argument(calls[0], len(parts[0]))
    seen.argument[modality] = key
    entered = None if key is None else torch.cat(to_cpu(_entered(call, key).float() for call in calls))
    seen.entering.setdefault(modality, {})[split] = entered


def _argument(call: tuple[Any, Any, Any], rows: int) -> str | int | None:
    """Which argument of an encoder is its input: the one tensor of numbers among them; None where it is not one."""
    args, kwargs, _ = call
    every: list[tuple[str | int, Any]] = [*enumerate(args), *kwargs.items()]
    keys = [k for k, v in every if isinstance(v, Tensor) and v.is_floating_point()]
    if len(keys) != 1 or len(_entered(call, keys[0])) != rows or _entered(call, keys[0]).ndim < 2:
        return None
    return keys[0]


def _entered(call: tuple[Any, Any, Any], key: str | int) -> Tensor:
    value: Tensor = call[0][key] if isinstance(key, int) else call[1][key]
    return value


# ---- which is the best


@dataclass(frozen=True)
class _Candidate:
    """Something to read out: what it is in words, its record, and what was drawn for it."""

    described: str
    record: dict[str, Any]
    drawn: dict[str, Tensor]

    def of(self, values: Mapping[str, Tensor]) -> FeatureSet:
        """Make the set of features that an exported readout of it reads."""
        readout = LateReadout({**self.record, "outputs": 1, "logs": False})
        for name, value in self.drawn.items():
            readout.get_buffer(name).copy_(value)

        def read(features: Features) -> Tensor:
            with torch.no_grad():
                return torch.cat([readout.read(part) for part in values[features.split].split(CHUNK)])

        return FeatureSet(self.described, read)


def best_readout(job: Job, modality: str, seen: Passed, *, single: bool) -> ExportedReadout:
    """Fit readouts of one modality, and take the best on held-out examples, as the diagnosis does.

    Where the diagnosis knows the best family, only that one is tried beside the encoder's own features.

    Args:
        job: The repair's job.
        modality: Whose.
        seen: What passed its encoder.
        single: Whether the model tells two classes apart by one logit.

    Returns:
        The readout.

    Raises:
        ConfigError: Where nothing can be read out.
    """
    task, at, entered = job.adapter.task, seen.at, seen.entering[modality]
    values = seen.features[modality]
    tried = {OWN_ENCODER: _chosen(job, at, list(_pools(values[at.train.split])), values)}
    known = READS.get(job.read.get(modality, ""))
    numbers = {split: x for split, x in entered.items() if x is not None}
    if job.read.get(modality) != OWN_ENCODER and len(numbers) == len(entered):
        for family, make in _FAMILIES.items():
            if known in (None, READS[family]):
                candidates = list(make(numbers[at.train.split], at, job.seed))
                tried[family] = _recalled(job, at, modality, family, candidates, numbers)
                with suppress(NumericsError), fitted_roughly(ROUGH):  # a fit that does not converge says nothing
                    tried[family] = tried[family] or _chosen(job, at, candidates, numbers)
    there = {family: found for family, found in tried.items() if found is not None}
    if not there:
        raise ConfigError(f"nothing of modality {modality!r} can be read out linearly: take another repair.")
    readouts = [TriedReadout(family, _unimodal(c), c.described) for family, (c, _) in there.items()]
    first = [r for r in readouts if r.family == OWN_ENCODER] or readouts
    used = weigh_readouts(task, at, first, [r for r in readouts if r not in first]).used
    chosen, candidate = there[used.family]
    linear = chosen.fitted.readout
    assert isinstance(linear, Linear)
    record = {
        **candidate.record,
        "argument": None if candidate.record["reads"] == "features" else seen.argument[modality],
        "part": job.adapter.config.modalities[modality].select,
        "channels": seen.layouts[modality],
        "features": values[at.train.split].shape[-1],
        "outputs": 1 if single else at.width,
        "logs": task.name == "classification" and not single,
    }
    return ExportedReadout(record, candidate.drawn, linear, chosen.fitted.held, f"{used.family}: {used.read}")


def _unimodal(chosen: ChosenReadout) -> UnimodalReadout:
    fitted = chosen.fitted
    return UnimodalReadout(fitted.held, fitted.held, chosen.training, fitted.loss, fitted.l2)


def _chosen(
    job: Job, at: FitSplit, candidates: Sequence[_Candidate], values: Mapping[str, Tensor]
) -> tuple[ChosenReadout, _Candidate] | None:
    """The candidate of the least held-out loss; None where there is none."""
    if not candidates:
        return None
    sets = [candidate.of(values) for candidate in candidates]
    chosen = choose_features(job.adapter.task, at, sets, finalists=1)
    return chosen, candidates[sets.index(chosen.features)]


def _recalled(
    job: Job, at: FitSplit, modality: str, family: str, candidates: Sequence[_Candidate], values: Mapping[str, Tensor]
) -> tuple[ChosenReadout, _Candidate] | None:
    """What the diagnosis fitted, where it was on the same examples, and on the very numbers that enter the encoder."""
    known = recall_families(job.adapter, at, modality, job.seed).get(family)
    candidate = next((c for c in candidates if known is not None and c.described == known.features.described), None)
    if known is None or candidate is None:
        return None
    few = at.train.taken(torch.arange(min(FEW, len(at.train))))
    theirs = known.features.of(few)
    ours = candidate.of({few.split: values[few.split][: len(few)]}).of(few)
    same = ours.shape == theirs.shape and torch.allclose(ours, theirs.to(ours.dtype), rtol=1e-3, atol=1e-4)
    return (known, candidate) if same else None


# ---- what is read


def _bare(reads: str, layout: str, entering: int, read: int) -> dict[str, Any]:
    return {"reads": reads, "layout": layout, "entering": entering, "sums": None, "banks": (), "read": read}


def _pools(x: Tensor) -> Iterator[_Candidate]:
    """Features (t, ..., d), channels last, as they are or pooled."""
    width = x.shape[-1]
    if x.ndim == 2:
        yield _Candidate("features as they are", _bare("features", "flat", width, width), {})
        return
    for pool in POOLS:
        yield _Candidate(f"features, their {pool}", _bare("features", pool, width, width), {})
    numbers = x[0].numel()
    if numbers <= WIDEST:
        yield _Candidate("features side by side", _bare("features", "flat", numbers, numbers), {})


def _rows(x: Tensor, at: FitSplit, seed: int) -> tuple[dict[str, Any], dict[str, Tensor], Tensor]:
    """How inputs (t, ...) become numbers in a row: record, what is drawn, and those of some training examples."""
    entering, rows = x[0].numel(), len(at.fit)
    record, drawn = _bare("numbers", "flat", entering, entering), dict[str, Tensor]()
    sample = x[evenly(at.fit, SAMPLE)].flatten(1)
    if entering > SUMS and (entering > WIDEST or rows * entering * min(rows, entering) > DEAR):
        g = torch.Generator().manual_seed(seed)
        place = torch.randint(0, SUMS, (entering,), generator=g)
        sign = torch.randint(0, 2, (entering,), generator=g).float() * 2 - 1
        record |= {"sums": SUMS, "read": SUMS}
        drawn = {"place": place, "sign": sign}
        sample = torch.zeros(len(sample), SUMS).index_add_(1, place, sample * sign)
    return record, drawn, sample


def _numbers(x: Tensor, at: FitSplit, seed: int) -> Iterator[_Candidate]:
    record, drawn, _ = _rows(x, at, seed)
    yield _Candidate(_in_a_row(x, record), record, drawn)


def _in_a_row(x: Tensor, record: Mapping[str, Any]) -> str:
    return "inputs" if record["sums"] is None else f"inputs of {x[0].numel()} numbers projected at random"


def _fourier(x: Tensor, at: FitSplit, seed: int) -> Iterator[_Candidate]:
    record, drawn, sample = _rows(x, at, seed)
    mean, deviation = sample.double().mean(0), sample.double().std(0, correction=0)
    constant = deviation <= 1e-10 * mean.abs().clamp_min(1e-30)
    scale = torch.where(constant, 0.0, 1 / torch.where(constant, 1.0, deviation))
    standard = ((sample.double() - mean) * scale).clamp(-10.0, 10.0).float()
    middle, count = median_distance(standard), min(FOURIER, max(32, len(at.fit)))
    for multiple in BANDWIDTHS:
        made = FourierFeatures.draw(sample.shape[1], count, multiple * middle, seed)
        yield _Candidate(
            f"inputs, bandwidth {multiple:g} median distances",
            {**record, "reads": "fourier", "read": count},
            {**drawn, "middle": mean, "scale": scale, "frequencies": made.frequencies, "phases": made.phases},
        )


def _convolutions(x: Tensor, at: FitSplit, seed: int) -> Iterator[_Candidate]:
    for maps in laid_out(x):
        made = ConvolutionalFeatures.draw(maps[evenly(at.fit, SAMPLE)], KERNELS, seed)
        if made is None:
            continue
        banks: list[dict[str, Any]] = []
        drawn = {"middle": torch.tensor(made.centre), "scale": torch.tensor(made.scale)}
        for i, bank in enumerate(made.banks):
            banks.append({"shape": tuple(bank.kernels.shape), "dilation": bank.dilation, "stride": bank.stride})
            drawn[f"banks.{i}.kernels"] = bank.kernels
            drawn[f"banks.{i}.scale"] = 1 / bank.deviation
            drawn[f"banks.{i}.shift"] = bank.mean / bank.deviation + bank.threshold
        pools = 4 if maps.ndim == 3 else 6
        shape = " x ".join(map(str, maps.shape[2:]))
        record = _bare(
            "convolutions", _layout(x[:2], maps[:2]), x[0].numel(), pools * sum(b["shape"][0] for b in banks)
        )
        described = f"inputs as {maps.shape[1]} channels along {shape} positions"
        yield _Candidate(described, {**record, "banks": tuple(banks)}, drawn)


def _layout(x: Tensor, maps: Tensor) -> str:
    """Name the layout that makes maps of what enters."""
    for name, lay in LAYOUTS.items():
        with suppress(IndexError, RuntimeError):
            found: Tensor = lay(x)
            if found.shape == maps.shape and torch.equal(found, maps):
                return name
    raise ConfigError(f"no layout makes maps of shape {tuple(maps.shape)} out of {tuple(x.shape)}.")


_FAMILIES: dict[str, Callable[[Tensor, FitSplit, int], Iterator[_Candidate]]] = {
    NUMBERS: _numbers,
    FOURIER_FEATURES: _fourier,
    CONVOLUTIONS: _convolutions,
}

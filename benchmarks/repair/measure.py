"""One subject, every method: plain records of what each left on the test split."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import collapsekit
from benchmarks.repair.class_means import class_means
from benchmarks.repair.subjects import Subject, arrays_of, config_of, trained
from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.config.options import RepairOptions
from collapsekit.context import Options, Progress
from collapsekit.interventions.imputation import can_substitute
from collapsekit.repairs.request import check_method_options, make_job, make_request
from collapsekit.repairs.training.job import Stage
from collapsekit.repairs.training.loop import train
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.diagnosis import Report

PROBES = ("utilisation", "reliance", "missing", "noise", "vif", "spectrum")
CLASSIFIER = "polysemanticity"  # takes as long as all the others
RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
TABLE3 = (0.8, 0.85, 0.9, 0.95)  # rates of Table 3
FILLS = ("zeros", "mean", "neighbour", "sample", "late", "substitution")


def measure(
    subject: Subject,
    methods: Sequence[str],
    options: dict[str, dict[str, Any]],
    training: dict[str, Any],
    split: str = "test",
    *,
    probes: Sequence[str] = PROBES,
) -> Iterator[dict[str, Any]]:
    """Yield records of the model as it was ("none") and after each method.

    Args:
        subject: the model and its data.
        methods: what repairs it: chains as "kd,dropout", presets as "ebr:paper", options as
            'ebr:alignment="coral";substitution=0'.
        options: of every method, by name.
        training: settings of training.
        split: what is measured on.
        probes: what is measured. With the modality classifier on weights (``CLASSIFIER``, Table 9) it takes twice the
            time; without utilisation a fraction, and then only own fills are tried.

    Yields:
        A record each.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = arrays_of(subject)
        save_file(arrays, folder / "data.safetensors")
        torch.save(trained(subject, arrays).state_dict(), folder / "ckpt.pt")
        config = config_of(subject, folder / "data.safetensors")
        how = RepairOptions.make(training=training, profile="quick", seed=subject.stream, cache=folder / "cache")
        request = make_request(folder / "ckpt.pt", config, how)
        every = check_method_options(options)
        weak = (subject.data_set.weak,)
        study = partial(_record, subject, split, folder / "cache", tuple(probes))
        with request.open() as opened:
            before = request.diagnose(opened, "val", ("utilisation", "reliance"))
        yield study("none", opened.rebuilt(), 0.0, None)
        for chain in methods:
            began = time.perf_counter()
            job, _ = make_job(request, opened, opened.rebuilt(), before, weak)
            kept, fitted = 0, False
            for place, named in enumerate(parts_of(chain)):
                method, _, asked = named.partition(":")
                here = job.at_place(place, own_options(every[method], asked))
                stages = _noting(registry.get_repair(method).stages(here), made := list[Stage]())
                curves = train(stages, here, method, Snapshots(folder / chain / method, {}), Progress())
                kept += sum(curve.kept for curve in curves)
                fitted |= any(stage.fit is not None for stage in made)
            took = time.perf_counter() - began
            # Of what is fitted at once there is no epoch.
            yield study(chain, job.adapter, took, None if fitted else kept)


def _noting(stages: Iterable[Stage], made: list[Stage]) -> Iterator[Stage]:
    """The stages, each noted when it is asked for."""
    for stage in stages:
        made.append(stage)
        yield stage


def parts_of(chain: str) -> list[str]:
    """The methods of a chain, each with what it asks for: a comma before a method's name parts them, not one in JSON."""
    return re.split(r",(?=[a-z_]+(?:[:,]|$))", chain)


def own_options(options: Options, asked: str) -> Options:
    """A method's options: those for all, and what its name asks for, parted by semicolons: a preset, or NAME=JSON."""
    found: dict[str, Any] = {}
    for part in filter(None, asked.split(";")):
        option, _, value = part.partition("=")
        found |= {option: json.loads(value)} if value else {"preset": option}
    return type(options)(**{**options.model_dump(exclude_unset=True), **found}) if found else options


def _record(
    subject: Subject,
    split: str,
    cache: Path,
    probes: tuple[str, ...],
    method: str,
    adapter: Adapter,
    took: float,
    kept: int | None,
) -> dict[str, Any]:
    judged = "utilisation" in probes
    report = collapsekit.diagnose(
        model=adapter.model,
        config=adapter.config,
        split=split,
        probes=probes,
        options={"missing": {"rates": RATES, **({} if judged else {"fills": _own_fills(adapter)})}},
        profile="standard" if CLASSIFIER in probes else "quick",
        seed=subject.stream,
        cache=cache,
    )

    def value(name: str, modality: str | None = None) -> float | None:
        found = report.find(name, modality)
        return None if found is None else found.value

    return {
        **asdict(subject),
        "split": split,
        "drawn": subject.data_set.drawn,
        "of": subject.data_set.of,
        "method": method,
        "accuracy": value("reliance.full_metric"),
        **{f"missing_{fill}": value(f"missing.rates.{fill}") for fill in FILLS},
        **{f"patterns_{fill}": value(f"missing.patterns.{fill}") for fill in FILLS},
        "missing_own": value("missing.rates.substitution") or value("missing.rates.zeros"),
        "patterns_own": value("missing.patterns.substitution") or value("missing.patterns.zeros"),
        "patterns_class": class_means(adapter, split) if judged else None,
        "often_missing": _often_missing(report),
        "noise_curve": _under_noise(report),
        "vif": value("vif.mean"),
        "rank": value("spectrum.effective_rank"),
        "classifier_loss": value("polysemanticity.cross_entropy"),
        "classifier_entropy": value("polysemanticity.entropy"),
        "drive_entropy": value("polysemanticity.drive_entropy"),
        "score": report.modalities[subject.data_set.weak].score if judged else None,
        "seconds": took,
        "epoch_kept": kept,  # of all stages together; 0: what is tabulated is the model before any training
    }


def _own_fills(adapter: Adapter) -> tuple[str, ...]:
    """The fills of a light measurement."""
    return "zeros", *["substitution"] * can_substitute(adapter)


def _often_missing(report: Report) -> float | None:
    """Accuracy with one modality absent from 80 to 95 % of examples, filled in the way that is best on val: the mean over
    modalities and over the rates of Table 3."""
    found = []
    for m in report.subject.modalities:
        drop = report.find("missing.drop", m)
        if drop is not None and drop.curve is not None:
            found += [y for x, y in zip(drop.curve.x, drop.curve.y, strict=True) if x in TABLE3]
    return sum(found) / len(found) if found else None


def _under_noise(report: Report) -> float | None:
    """Accuracy with noise on one modality's input: the mean over modalities and over levels of 5 to 50 % of the range."""
    found = []
    for m in report.subject.modalities:
        noise = report.find("noise.input", m)
        if noise is not None and noise.curve is not None:
            found += [y for x, y in zip(noise.curve.x, noise.curve.y, strict=True) if isinstance(x, float) and x > 0]
    return sum(found) / len(found) if found else None


def options_of(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options by method of arguments METHOD.OPTION=JSON."""
    options: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        method, _, option = name.partition(".")
        options.setdefault(method, {})[option] = json.loads(value)
    return options

"""One subject made, diagnosed and set beside its truth: a plain record."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.planted.competitors import scores
from benchmarks.planted.real import VIEWS, make_real, truth_of_real
from benchmarks.planted.subjects import Made, Subject, make
from benchmarks.planted.truth import truth
from collapsekit import diagnose
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.features.extraction import extract

PROBES = ("reliance", "utilisation", "prefix_gap", "spectrum")


def config_of(made: Made, folder: Path) -> dict[str, Any]:
    """The config of a subject, its data written to ``folder``."""
    path = folder / "data.safetensors"
    save_file({f"{s}/{k}": v.contiguous() for s, part in made.data.items() for k, v in part.items()}, path)
    return {
        "model": {"factory": "benchmarks.planted.models:build", "kwargs": made.kwargs},
        "modalities": {m: {"encoder": f"encoders.{m}"} for m in made.world.modalities},
        "fusion": "fusion",
        "head": "head",
        "task": made.world.task,
        "data": {"path": str(path), "label": "label"},
    }


def measure(
    subject: Subject,
    probes: Sequence[str] = PROBES,
    profile: str = "standard",
    cache: Path | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make, diagnose, compare: everything the table needs of one subject."""
    began = time.perf_counter()
    real_data = subject.world["kind"] in VIEWS
    made = make_real(subject) if real_data else make(subject)
    real = truth_of_real(made) if real_data else truth(made)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = config_of(made, folder)
        start = time.perf_counter()
        report = diagnose(
            model=made.model,
            config=config,
            probes=probes,
            profile=profile,
            options=options,
            cache=cache or folder / "cache",  # type: ignore[arg-type]
        )
        took = time.perf_counter() - start
        adapter = ModuleAdapter(check_config(config, base=Path.cwd()), model=made.model)
        others = scores(adapter, extract(adapter, report.subject.split), report)
    rows = {}
    for m, verdict in report.modalities.items():
        state, ratio, share = real[m]
        rows[m] = {
            "truth": state,
            "role": made.world.roles[m],
            "true_ratio": ratio,
            "true_share": share,
            "verdict": verdict.verdict,
            "score": verdict.score,
            "interval": verdict.interval,
            "reason": verdict.reason,
            "results": {
                r.name + (f"|{r.versus}" if r.versus else ""): [r.value, *(r.interval or ())]
                for r in report.results
                if r.modality == m and r.value is not None
            },
            "others": {name: values[m] for name, values in others.items()},
        }
    whole = {r.name: r.value for r in report.results if r.modality is None and r.value is not None}
    return {
        "subject": subject.name,
        "kind": subject.kind,
        "world": subject.world["kind"],
        "task": made.world.task,
        "world_arguments": dict(subject.world),
        "fusion": subject.fusion,
        "n": len(made.data["train"]["label"]),
        "modalities": rows,
        "whole": whole,
        "seconds": time.perf_counter() - began,
        "diagnosis_seconds": took,
    }


def measure_in_process(subject: Subject, profile: str, cache: Path | None) -> dict[str, Any]:
    """``measure`` on one thread, for a pool of processes."""
    torch.set_num_threads(1)
    return measure(subject, profile=profile, cache=cache)

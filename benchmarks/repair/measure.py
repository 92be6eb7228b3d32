"""One subject, every method: plain records of what each left on the test split."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.repair.subjects import WEAK, Subject, arrays_of, config_of, trained
from collapsekit import registry
from collapsekit.repairing.asked import check_method_options, make_asked, make_job
from collapsekit.repairs.loop import train
from collapsekit.repairs.snapshots import Snapshots
from collapsekit.report import Report
from collapsekit.settings import Progress

PROBES = ("utilisation", "reliance", "missing", "noise", "vif", "spectrum")


def measure(
    subject: Subject,
    methods: Sequence[str],
    options: dict[str, dict[str, Any]],
    training: dict[str, Any],
    split: str = "test",
    probes: Sequence[str] = PROBES,
) -> Iterator[dict[str, Any]]:
    """Records of the model as it was ("none") and after each of ``methods`` (chains as "kd,dropout")."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = arrays_of(subject)
        save_file(arrays, folder / "data.safetensors")
        torch.save(trained(subject, arrays).state_dict(), folder / "ckpt.pt")
        config = config_of(subject, folder / "data.safetensors")
        asked = make_asked(
            folder / "ckpt.pt", config, training, profile="quick", seed=subject.seed, cache=folder / "cache"
        )
        every = check_method_options(options)
        before = asked.diagnose(None, "val", ("utilisation", "reliance"))
        weak = (WEAK[subject.data],)
        yield _record(subject, "none", asked.diagnose(None, split, probes), 0.0, weak[0])
        for chain in methods:
            began = time.perf_counter()
            job, _ = make_job(asked, before, weak)
            for method in chain.split(","):
                stages = registry.get_repair(method).stages(replace(job, options=every[method]))
                train(stages, job, method, Snapshots(folder / chain / method, {}), Progress())
            took = time.perf_counter() - began
            yield _record(subject, chain, asked.diagnose(job.adapter, split, probes), took, weak[0])


def _record(subject: Subject, method: str, report: Report, took: float, weak: str) -> dict[str, Any]:
    def value(name: str, modality: str | None = None) -> float | None:
        found = report.find(name, modality)
        return None if found is None else found.value

    names = report.subject.modalities
    noisy = [v for m in names if (v := value("noise.input", m)) is not None]
    return {
        **asdict(subject),
        "method": method,
        "accuracy": value("reliance.full_metric"),
        "missing_zeros": value("missing.rates.zeros"),
        "missing_mean": value("missing.rates.mean"),
        "missing_sample": value("missing.rates.sample"),
        "patterns_zeros": value("missing.patterns.zeros"),
        "noise_curve": sum(noisy) / len(noisy) if noisy else None,
        "vif": value("vif.mean"),
        "rank": value("spectrum.effective_rank"),
        "score": report.modalities[weak].score,
        "seconds": took,
    }

"""What collapsekit, and what people use today, say of the trained models: one line a model and profile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.natural import peers
from benchmarks.natural.data import Data
from benchmarks.natural.files import trained, weights
from benchmarks.natural.models import Natural
from benchmarks.natural.settings import Setting
from benchmarks.natural.training import arguments
from benchmarks.records import add_line, read_lines
from collapsekit import diagnose
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.memory import with_data
from collapsekit.features.extraction import extract

PROBES = ("reliance", "utilisation", "prefix_gap", "spectrum")
SPLITS = ("train", "val", "test")


def work(setting: Setting, data: Data, seed: int, out: Path, profiles: Sequence[str], name: str) -> None:
    """Diagnose one model in the profiles that ``out``/``name`` lacks."""
    known = {(r["setting"], r["seed"], r["profile"]) for r in read_lines(out / name)}
    for profile in profiles:
        if (setting.name, seed, profile) in known or not weights(out, setting, seed).is_file():
            continue
        record = verdict(setting, data, trained(setting, data, out, seed), profile, out / "cache")
        add_line(out / name, {"setting": setting.name, "seed": seed, "profile": profile, **record})
        states = {m: row["verdict"] for m, row in record["modalities"].items()}
        print(f"{setting.name} seed {seed} {profile}: {states}, {record['seconds']:.0f} s", flush=True)


def config_of(setting: Setting, data: Data) -> dict[str, Any]:
    """What a user's config says of such a model."""
    return {
        "model": {"factory": "benchmarks.natural.models:build", "kwargs": arguments(setting, data)},
        "modalities": {m: {"encoder": f"encoders.{m}"} for m in data.modalities},
        "fusion": "fusion",
        "head": "head",
        "task": data.task,
        "data": {"path": "data.safetensors", "label": "label"},
    }


def verdict(setting: Setting, data: Data, model: Natural, profile: str, cache: Path) -> dict[str, Any]:
    """Diagnose one model on its test split."""
    splits = {s: data.splits[s] for s in SPLITS}
    config = config_of(setting, data)
    began = time.perf_counter()
    report = diagnose(
        config=config,
        model=model,
        data=splits,
        probes=PROBES,
        profile=profile,  # type: ignore[arg-type]
        cache=cache,
    )
    took = time.perf_counter() - began
    settled, source = with_data(check_config(config, base=Path.cwd()), splits)
    adapter = ModuleAdapter(settled, model=model, source=source)
    others = peers.scores(adapter, extract(adapter, report.subject.split), report)
    rows = {
        m: {
            **found.model_dump(mode="json"),
            "results": {
                r.name: [r.value, *(r.interval or ())]
                for r in report.results
                if r.modality == m and r.value is not None
            },
            "peers": {name: values[m] for name, values in others.items()},
        }
        for m, found in report.modalities.items()
    }
    judged = report.judged
    return {
        "verdict": report.verdict,
        "summary": report.summary,
        "judged": None if judged is None else judged.model_dump(mode="json"),
        "modalities": rows,
        "seconds": took,
    }

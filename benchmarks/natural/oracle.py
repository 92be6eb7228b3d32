"""What could be had from each modality, by retraining: recipes, their runs, and the best of them.

Every recipe trains the setting's architecture. The first trains it as the setting says; the others on standardised inputs,
with early stopping. The best is chosen on validation examples and judged on test examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.natural.data import Data, only, standardise
from benchmarks.natural.exchange import answers, losses, prior, scored, sureness
from benchmarks.natural.models import Natural
from benchmarks.natural.settings import Setting
from benchmarks.natural.training import Fit, fit, fit_of
from benchmarks.natural.truth import Evidence
from benchmarks.records import add_line, read_lines

ORACLE_SEEDS = (100, 101)
RATES = (1e-3, 4e-3)  # of an encoder that is trained alone
RECIPES = ("own", "dropout", "rates", "alone", "balanced")
AS_GOOD = 0.02  # of the prior's loss: a run so little worse than the best is as good in practice
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """One run: which modalities, by which recipe, from which seed."""

    subset: tuple[str, ...]
    recipe: str
    seed: int

    @property
    def key(self) -> str:
        return f"{'+'.join(self.subset)}/{self.recipe}/{self.seed}"


def asked_of(modalities: Sequence[str], seeds: Sequence[int] = ORACLE_SEEDS) -> Iterator[Asked]:
    """All runs of a setting, those of single modalities first: others begin with their encoders."""
    singles = [(m,) for m in modalities]
    for subset in singles:
        for recipe in ("own", *(f"alone@{rate}" for rate in RATES)):
            yield from (Asked(subset, recipe, seed) for seed in seeds)
    rest = [tuple(k for k in modalities if k != m) for m in modalities]
    for subset in [tuple(modalities), *(s for s in rest if len(s) > 1)]:
        for recipe in RECIPES:
            yield from (Asked(subset, recipe, seed) for seed in seeds)


class Oracle:
    """The runs of one setting; ``folder`` keeps the weights of encoders that were trained alone."""

    def __init__(self, setting: Setting, data: Data, folder: Path) -> None:
        self.setting, self.folder = setting, folder
        self.raw = data if setting.raw else standardise(data)
        self.scaled = standardise(data)
        self.runs: dict[str, Run] = {}

    def run(self, asked: Asked) -> dict[str, Any]:
        """Train one, and find its losses; a record."""
        began = time.perf_counter()
        data = only(self.raw if asked.recipe == "own" else self.scaled, asked.subset)
        model, epochs = fit(self.setting, data, self._how(asked), asked.seed)
        if asked.recipe.startswith("alone@"):
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(model.encoders[asked.subset[0]].state_dict(), self._weights(asked))
        record: dict[str, Any] = {
            "setting": self.setting.name,
            "run": asked.key,
            "epochs": epochs,
            "val": float(calibrated(model, data, "val").mean()),
            "test": listed(calibrated(model, data, data.judging)),
        }
        if len(asked.subset) == len(self.setting.modalities):
            val, test = losses(model, data, "val"), losses(model, data, data.judging)
            record["val_use"] = {m: float(val.use(m).mean()) for m in asked.subset}
            record["test_use"] = {m: listed(test.use(m)) for m in asked.subset}
        record["seconds"] = time.perf_counter() - began
        self.runs[asked.key] = record
        return record

    def _weights(self, asked: Asked) -> Path:
        return self.folder / f"{self.setting.name}-{asked.key.replace('/', '-')}.safetensors"

    def _how(self, asked: Asked) -> Fit:
        if asked.recipe == "own":
            own = fit_of(self.setting)
            return replace(own, rates={m: r for m, r in own.rates.items() if m in asked.subset})
        epochs = max(self.setting.epochs, 25)
        how = Fit(rate=RATES[0], weight_decay=1e-2, epochs=epochs, patience=6)
        if asked.recipe.startswith("alone@"):
            return replace(how, rate=float(asked.recipe.partition("@")[2]))
        if asked.recipe == "dropout":
            return replace(how, drop=0.3)
        if asked.recipe == "balanced":
            return replace(how, helped=0.5)
        best = {m: self._best_rate(m, asked.seed) for m in asked.subset}
        if asked.recipe == "rates":
            return replace(how, rates=best)
        paths = {m: self._weights(Asked((m,), f"alone@{rate}", asked.seed)) for m, rate in best.items()}
        return replace(how, rates=dict.fromkeys(best, 1e-4), start={m: load_file(p) for m, p in paths.items()})

    def _best_rate(self, modality: str, seed: int) -> float:
        return min(RATES, key=lambda rate: self.runs[Asked((modality,), f"alone@{rate}", seed).key]["val"])


def calibrated(model: Natural, data: Data, split: str) -> Tensor:
    """Losses (n,) of a split, as sure as validation examples say."""
    val, part = data.splits["val"], data.splits[split]
    factor = sureness(data.task, answers(model, val), val["label"])
    outputs = answers(model, part).double()
    return scored(data.task, (factor * outputs).softmax(1) if data.task == "classification" else outputs, part["label"])


def listed(values: Tensor) -> list[float]:
    """Values as JSON keeps them."""
    return [round(v, 6) for v in values.tolist()]


def work(
    setting: Setting, data: Data, out: Path, tell: Callable[[str], None], seeds: Sequence[int] = ORACLE_SEEDS
) -> None:
    """Make every run of a setting that ``out``/oracle.jsonl lacks, one a line."""
    oracle = Oracle(setting, data, out / "oracle")
    oracle.runs.update(read_runs(out, setting.name))
    for asked in asked_of(setting.modalities, seeds):
        if asked.key in oracle.runs:
            continue
        record = oracle.run(asked)
        add_line(out / "oracle.jsonl", record)
        tell(f"{setting.name} {asked.key}: {record['val']:.4f} in {record['seconds']:.1f} s")


def read_runs(out: Path, setting: str) -> dict[str, Run]:
    """Runs of a setting that were made."""
    return {r["run"]: r for r in read_lines(out / "oracle.jsonl") if r["setting"] == setting}


def best(runs: Iterable[Run]) -> Run:
    """The run of the least validation loss."""
    return min(runs, key=lambda run: run["val"])


def evidence(setting: Setting, data: Data, runs: Mapping[str, Run], use: Mapping[str, Tensor]) -> dict[str, Evidence]:
    """What the runs say could be had from each modality, beside what a model has of it.

    Args:
        setting: Its modalities are judged.
        data: For the prior's losses.
        runs: The setting's runs by key.
        use: By modality what it saves the model each test example (n,).

    Returns:
        By modality, of test examples.
    """

    def of(subset: Sequence[str]) -> list[Run]:
        return [run for key, run in runs.items() if key.split("/")[0] == "+".join(subset)]

    def tested(run: Run) -> Tensor:
        return torch.tensor(run["test"], dtype=torch.float64)

    names, base = setting.modalities, prior(data, data.judging)
    whole = best(of(names))
    least = whole["val"] + AS_GOOD * float(prior(data, "val").mean())
    good = [run for run in of(names) if run["val"] <= least]
    out = {}
    for m in names:
        using = max(good, key=lambda run: run["val_use"][m])
        out[m] = Evidence(
            prior=base,
            alone=base - tested(best(of((m,)))),
            added=tested(best(of([k for k in names if k != m]))) - tested(whole),
            due=torch.tensor(using["test_use"][m], dtype=torch.float64),
            use=use[m],
        )
    return out

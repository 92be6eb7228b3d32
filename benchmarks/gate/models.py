"""Models of the embedded example, trained so that they use its views, or ignore one; their reports, kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import collapsekit
from collapsekit.demo.make import demo_data
from collapsekit.demo.model import WIDTHS, build
from collapsekit.gating.baseline import make_run
from collapsekit.report.baseline import Run
from collapsekit.report.per_example import PerExample

EPOCHS, RATE, DECAY, BATCH = 30, 3e-3, 1e-3, 64
DRAWS = 32
MOMENT = 5  # further batches of training at a hundredth of the rate


def train(data: dict[str, Tensor], seed: int, ignored: str | None = None, jolt: float = 0.0) -> nn.Module:
    """A model of the example; the view ``ignored`` is another example's whenever it trains; ``jolt``: relative noise on
    the initial weights, of the size of rounding, as another machine or library would bring."""
    torch.manual_seed(seed)
    model = build()
    if jolt:
        noise = torch.Generator().manual_seed(seed + 10_000)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + jolt * torch.randn(p.shape, generator=noise))
    steps(model, data, EPOCHS, RATE, ignored)
    return model.eval()


def steps(
    model: nn.Module, data: dict[str, Tensor], epochs: int, rate: float, ignored: str | None, most: int = 0
) -> None:
    """Train on; at most ``most`` batches, where that is not 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=DECAY)
    x, y = {v: data[f"train/{v}"] for v in WIDTHS}, data["train/label"]
    batches = [rows for _ in range(epochs) for rows in torch.randperm(len(y)).split(BATCH)]
    for rows in batches[: most or len(batches)]:
        shown = {v: t[rows] for v, t in x.items()}
        if ignored is not None:
            shown[ignored] = shown[ignored][torch.randperm(len(rows))]
        optimizer.zero_grad()
        F.cross_entropy(model(**shown), y[rows]).backward()
        optimizer.step()


def rounded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The same model with weights as ``dtype`` holds them."""
    model.load_state_dict({k: v.to(dtype).to(v.dtype) for k, v in model.state_dict().items()})
    return model


# What changes nothing that matters, done to a model of a training seed: name -> (model, seed of its diagnosis).
Null = Callable[[dict[str, Tensor], int], tuple[nn.Module, int]]


def _trained_on(data: dict[str, Tensor], seed: int) -> nn.Module:
    model = train(data, seed)
    torch.manual_seed(seed + 20_000)
    steps(model.train(), data, 1, RATE / 100, None, most=MOMENT)
    return model.eval()


NULLS: dict[str, Null] = {
    "another seed of the diagnosis": lambda data, seed: (train(data, seed), 1),
    "weights rounded to float16": lambda data, seed: (rounded(train(data, seed), torch.float16), 0),
    "weights rounded to bfloat16": lambda data, seed: (rounded(train(data, seed), torch.bfloat16), 0),
    "trained on for a moment": lambda data, seed: (_trained_on(data, seed), 0),
    "trained again, rounding apart": lambda data, seed: (train(data, seed, jolt=1e-7), 0),
}


@dataclass
class Shelf:
    """Reports by name in a folder, made where they are not there yet."""

    folder: Path
    data: dict[str, Tensor]

    @classmethod
    def at(cls, folder: Path) -> Shelf:
        """The shelf in ``folder``, with the example's data beside the reports."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        torch.set_num_threads(1)
        folder.mkdir(parents=True, exist_ok=True)
        data = demo_data()
        save_file(data, folder / "data.safetensors")
        return cls(folder, data)

    def run(self, name: str, training_seed: int, make: Callable[[], tuple[nn.Module, int]]) -> Run:
        """The report ``name`` as a run, of the model and the diagnosis seed that ``make`` gives."""
        file = self.folder / f"{name}.json"
        if file.is_file():
            return Run.model_validate_json(file.read_text())
        model, seed = make()
        config: dict[str, Any] = {
            "modalities": {v: f"encoders.{v}" for v in WIDTHS},
            **{"fusion": "fusion", "head": "head", "data": {"path": str((self.folder / "data.safetensors").resolve())}},
        }
        report = collapsekit.diagnose(
            model=model,
            config=config,
            probes=["reliance", "utilisation"],
            options={"reliance": {"draws": DRAWS}},
            **{"profile": "quick", "seed": seed, "training_seed": training_seed, "cache": self.folder / "cache"},  # type: ignore[arg-type]
        )
        made = make_run(report, report.records)
        file.write_text(made.model_dump_json())
        return made

    def healthy(self, seed: int) -> Run:
        """A model that was trained plainly."""
        return self.run(f"healthy-{seed}", seed, lambda: (train(self.data, seed), 0))

    def collapsed(self, seed: int, view: str) -> Run:
        """A model of that training seed that ignores the view."""
        return self.run(f"collapsed-{view}-{seed}", seed, lambda: (train(self.data, seed, view), 0))

    def null(self, kind: str, seed: int) -> Run:
        """A model of that training seed in which nothing that matters changed."""
        return self.run(f"null-{list(NULLS).index(kind)}-{seed}", seed, lambda: NULLS[kind](self.data, seed))


def with_records(run: Run) -> collapsekit.Report:
    """A run's report with its records, as the gate is given it."""
    records: PerExample | None = run.read_records()
    return run.report if records is None else run.report.with_records(records.to_bytes())

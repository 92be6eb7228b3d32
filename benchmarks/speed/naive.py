"""The same questions by a script that runs the whole model for each: what that costs, and that the numbers are the same.

python -m benchmarks.speed.naive

Loss over modality subsets and the Shapley credits, β sweep (loss, accuracy, numerical rank, CKA), VIF, spectrum: each draw
of other examples and each β is another pass of the user's model, encoders included, as one would write it in an afternoon.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.passes import BATCH, CONFIG, MODALITIES, plain_pass, subject, timed
from collapsekit import Report, diagnose
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.arrays import ArraySource
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.interventions.marginal import marginal_samples

PROBES = ("reliance", "rank_sweep", "vif", "spectrum")
DRAWS, BETAS = 4, (0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0)
SWEPT = "audio"
OPTIONS: dict[str, dict[str, Any]] = {"reliance": {"draws": DRAWS}, "rank_sweep": {"modality": SWEPT}}
FLOOR = 1e-30  # of a probability, as the task loss has it


@dataclass(frozen=True)
class Naive:
    """Passes it took, seconds of one pass and of each way, and the largest difference relative to the number."""

    passes: int
    one: float
    naive: float
    ours: float
    apart: float


class Script:
    """The afternoon's script."""

    def __init__(self, model: nn.Module, x: dict[str, Tensor], y: Tensor) -> None:
        self.model, self.x, self.y, self.passes = model, x, y, 0

    def run(self, x: dict[str, Tensor], beta: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and what left encoders and fusion, of one pass over all examples."""
        seen: dict[str, list[Tensor]] = {"fusion": [], **{m: [] for m in MODALITIES}}
        handles = [self.model.fusion.register_forward_hook(lambda _m, _a, out: seen["fusion"].append(out))]
        for m, encoder in self.model.encoders.items():  # type: ignore[operator,union-attr]

            def note(_m: nn.Module, _a: Any, out: Tensor, m: str = m) -> Tensor:
                seen[m].append(out)
                return out * beta if m == SWEPT else out

            handles.append(encoder.register_forward_hook(note))
        self.passes += 1
        with torch.no_grad():
            parts = [self.model(**{k: v[i : i + BATCH] for k, v in x.items()}) for i in range(0, len(self.y), BATCH)]
        for handle in handles:
            handle.remove()
        return torch.cat(parts), {k: torch.cat(v).double() for k, v in seen.items()}

    def loss(self, p: Tensor) -> float:
        """Cross-entropy of probabilities."""
        return float(-p[torch.arange(len(self.y)), self.y].clamp_min(FLOOR).log().mean())

    def worth(self, present: tuple[str, ...], others: list[Tensor]) -> float:
        """Minus the loss with the other modalities taken from other examples."""
        if len(present) == len(MODALITIES):
            return -self.loss(F.softmax(self.run(self.x)[0].double(), 1))
        given = ({m: v if m in present else v[o] for m, v in self.x.items()} for o in others)
        return -self.loss(torch.stack([F.softmax(self.run(x)[0].double(), 1) for x in given]).mean(0))

    def numbers(self, others: list[Tensor]) -> dict[str, Any]:
        """Everything, by the names of collapsekit's results."""
        a, b = MODALITIES
        v = {present: self.worth(present, others) for present in ((), (a,), (b,), (a, b))}
        found: dict[str, Any] = {
            f"reliance.shapley/{a}": (v[a,] - v[()] + v[a, b] - v[b,]) / 2,
            f"reliance.shapley/{b}": (v[b,] - v[()] + v[a, b] - v[a,]) / 2,
        }
        curves: dict[str, list[float]] = {"loss": [], "metric": [], "numerical_rank": [], "cka": []}
        for beta in BETAS:
            logits, seen = self.run(self.x, beta)
            curves["loss"].append(self.loss(F.softmax(logits.double(), 1)))
            curves["metric"].append(float((logits.argmax(1) == self.y).double().mean()))
            sigma = np.linalg.svd((seen["fusion"] - seen["fusion"].mean(0)).numpy(), compute_uv=False)
            curves["numerical_rank"].append(float((sigma > 1e-3 * sigma[0]).sum()))
            curves["cka"].append(_cka(seen[SWEPT].numpy(), seen["fusion"].numpy()))
        found |= {f"rank_sweep.{k}": c for k, c in curves.items()}
        _, seen = self.run(self.x)
        z = seen["fusion"].numpy()
        kept = z[:, z.std(0) > 0]
        found["vif.mean"] = float(np.diag(np.linalg.inv(np.corrcoef(kept.T))).mean())
        sigma = np.linalg.svd(z - z.mean(0), compute_uv=False)
        p = sigma[sigma > 0] / sigma.sum()
        found["spectrum.effective_rank"] = float(np.exp(-(p * np.log(p)).sum()))
        return found


def _cka(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased, by n x n kernels (Song et al. 2012)."""

    def hsic(k: np.ndarray, q: np.ndarray) -> float:
        n = len(k)
        k, q = k - np.diag(np.diag(k)), q - np.diag(np.diag(q))
        total = (k * q).sum() + k.sum() * q.sum() / (n - 1) / (n - 2) - 2 / (n - 2) * (k.sum(0) @ q.sum(0))
        return float(total / n / (n - 3))

    k, q = ((v - v.mean(0)) @ (v - v.mean(0)).T for v in (x, y))
    return hsic(k, q) / (hsic(k, k) * hsic(q, q)) ** 0.5


def difference(report: Report, found: dict[str, Any]) -> float:
    """The largest difference between a report and the script, relative to the number."""
    apart = 0.0
    for name, value in found.items():
        short, _, modality = name.partition("/")
        versus = SWEPT if short == "rank_sweep.cka" else None
        result = report.find(short, modality or (SWEPT if short.startswith("rank_sweep") else None), versus)
        assert result is not None, name
        assert result.skipped is None, f"{name}: {result.skipped}"
        ours = result.curve.y if result.curve is not None else [result.value]
        theirs = value if isinstance(value, list) else [value]
        apart = max(apart, *(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(ours, theirs, strict=True)))
    return apart


def naive(examples: int = 160, layers: int | None = None) -> Naive:
    """Both ways on few examples: a pass and all the script's passes, and a diagnosis of the same probes."""
    model, data = subject(examples, **({} if layers is None else {"layers": layers}))
    adapter = ModuleAdapter(check_config(CONFIG, base=Path.cwd()), model=model, source=ArraySource(data, "memory"))
    features: Features = extract(adapter, "test")
    script = Script(model, dict(features.inputs), features.targets)
    others = marginal_samples(examples, DRAWS, 0)
    found: dict[str, Any] = {}
    reports: list[Report] = []
    one = timed(lambda: plain_pass(model, data["test"]))
    slow = timed(lambda: found.update(script.numbers(others)))
    fast = timed(
        lambda: reports.append(diagnose(config=CONFIG, model=model, data=data, probes=PROBES, options=OPTIONS))
    )
    return Naive(script.passes, one, slow, fast, difference(reports[0], found))


def main() -> None:
    found = naive()
    print(
        f"one pass {found.one:.2f} s; script {found.naive:.1f} s ({found.passes} passes); collapsekit {found.ours:.2f} s; "
        f"largest relative difference {found.apart:.1e}"
    )


if __name__ == "__main__":
    main()

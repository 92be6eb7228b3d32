"""How often nominal 95 % intervals hold the value of a very large sample: one model, many test sets.

python -m benchmarks.coverage --sets 300
python -m benchmarks.coverage --bounded
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.planted.measure import config_of
from benchmarks.planted.subjects import Made, Subject, make
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Settings
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.probes.credit import reliance, utilisation
from collapsekit.probes.geometry import spectrum, vif
from collapsekit.report.diagnosis import Result
from collapsekit.session.session import Session
from collapsekit.stats.inference.bounded import bounded_interval
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.stats.inference.jackknife import interval_array

POOL, LARGE = 40_000, 16_000
SMALL = {"fused": 4}  # so that VIF is a number, not a bound
SUBJECTS = {
    "complementary, gated": Subject(
        "0", "healthy", {"kind": "complementary", "modalities": 2, "distances": (2.5,)}, 600, "gated", model=SMALL
    ),
    "redundant, one slow": Subject(
        "1",
        "natural",
        {"kind": "redundant", "modalities": 2, "distances": (2.5,), "classes": 6},
        600,
        "sum",
        model=SMALL,
    ),
    "easy: accuracy near 1, loss near 0": Subject(
        "2", "healthy", {"kind": "complementary", "modalities": 2, "distances": (5.5,)}, 1200, "gated", model=SMALL
    ),
}
GROUPS, MEANS = 16, 10_000  # of the jackknife; test sets of means whose truth is known
ACCURACIES, SCATTER = (0.5, 0.8, 0.95, 0.99, 0.995, 0.999), (0.5, 1.0, 1.5, 2.0)
WATCHED = (
    "reliance.full_metric",
    "reliance.full_loss",
    "reliance.shapley",
    "utilisation.credit",
    "utilisation.score",
    "vif.mean",
    "spectrum.effective_rank",
)


def results(adapter: ModuleAdapter, features: Features) -> dict[tuple[str, str | None], Result]:
    """The watched numbers, trained models taken from nowhere but the checkpoint (profile quick)."""
    options = reliance.RelianceOptions(draws=32)
    session = Session.of(adapter, features, Settings(profile="quick", others={"reliance": options}))
    found: dict[tuple[str, str | None], Result] = {}
    for probe in (reliance, utilisation, vif, spectrum):
        for r in probe.run(session):
            if r.name in WATCHED and r.value is not None:
                found[r.name, r.modality] = r
    return found


def cover(made: Made, sets: int, n: int) -> dict[tuple[str, str | None], tuple[float, float, float, float]]:
    """Per number: its large-sample value, its mean over test sets, and the shares of intervals that hold either."""
    made.data["test"] = made.world.sample(POOL, 424_242)
    with tempfile.TemporaryDirectory() as folder:
        adapter = ModuleAdapter(check_config(config_of(made, Path(folder)), base=Path.cwd()), model=made.model)
        pool = extract(adapter, "test")
        shuffled = torch.randperm(POOL, generator=torch.Generator().manual_seed(0))
        large = results(adapter, pool.taken(shuffled[:LARGE]))
        found: dict[tuple[str, str | None], list[tuple[float, float, float]]] = {k: [] for k in large}
        g = torch.Generator().manual_seed(1)
        for _ in range(sets):
            small = results(adapter, pool.taken(torch.randperm(POOL, generator=g)[:n]))
            for key, r in small.items():
                if key in found and r.value is not None and r.interval is not None:
                    found[key].append((r.value, *r.interval))
    out = {}
    for key, made_of in found.items():
        value, mean = large[key].value or 0.0, sum(v for v, _, _ in made_of) / len(made_of)
        held = [sum(low <= target <= high for _, low, high in made_of) / len(made_of) for target in (value, mean)]
        out[key] = (value, mean, *held)
    return out


def _draws(kind: str, size: float, shape: tuple[int, int]) -> tuple[torch.Tensor, float]:
    """What each example of many test sets gives, and its true mean: right answers, or losses by how their logarithm
    scatters."""
    if kind == "accuracy":
        return (torch.rand(shape) < size).double(), size
    return torch.exp(size * torch.randn(shape).double() - size * size / 2), 1.0


def bounded(sets: int, n: int) -> list[tuple[str, float, float, float]]:
    """Means whose truth is known: how often the interval within bounds holds it, and the plain one, which goes beyond."""
    torch.manual_seed(0)
    groups = torch.arange(n) % GROUPS
    sizes = torch.bincount(groups).double()
    rows = []
    for kind, bounds, values in (("accuracy", SHARE, ACCURACIES), ("loss", NOT_NEGATIVE, SCATTER)):
        for size in values:
            x, truth = _draws(kind, size, (sets, n))
            sums = torch.zeros(sets, GROUPS, dtype=torch.float64).index_add_(1, groups, x)
            full, left = x.mean(1), ((x.sum(1, keepdim=True) - sums) / (n - sizes)).T
            ends = bounded_interval(full, left, 0.95, bounds, n), interval_array(full, left, skewed=False)
            held = [float(((low <= truth) & (truth <= high)).double().mean()) for low, high in ends]
            rows.append((kind, size, *held))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of nominal 95 % intervals.")
    parser.add_argument("--sets", type=int, default=300, help="test sets drawn for each model")
    parser.add_argument("--examples", type=int, default=400, help="examples a test set")
    parser.add_argument("--bounded", action="store_true", help="only means whose truth is known, which take seconds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"means of {given.examples} examples: {MEANS} test sets each")
    print(f"  {'of':<10}{'truth, or scatter of log loss':>30}{'holds':>8}{'plain':>8}")
    for kind, size, held, plain in bounded(MEANS, given.examples):
        print(f"  {kind:<10}{size:>30}{held:>8.1%}{plain:>8.1%}")
    if given.bounded:
        return
    for name, subject in SUBJECTS.items():
        print(f"{name}: {given.sets} test sets of {given.examples}")
        print(f"  {'number':<26}{'modality':<9}{'large n':>9}{'mean':>9}{'holds large':>12}{'holds mean':>11}")
        for (what, modality), (large, mean, *held) in cover(make(subject), given.sets, given.examples).items():
            print(f"  {what:<26}{modality or '':<9}{large:>9.3f}{mean:>9.3f}{held[0]:>12.1%}{held[1]:>11.1%}")


if __name__ == "__main__":
    main()

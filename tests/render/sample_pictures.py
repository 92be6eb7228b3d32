"""Reports with numbers of every probe, for any modalities: what their pictures are drawn from."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
from sample_reports import Builder, make_report

from collapsekit.report.diagnosis import Report

FILLS = ("zeros", "mean", "neighbour", "sample", "late")
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
BETAS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
CKA, COSINE = "CKA", "cosine"


def _controls(b: Builder, names: tuple[str, ...]) -> None:
    for i, n in enumerate(names):
        b.add("controls.permuted", value=0.0, interval=(-0.01, 0.02), unit="nats", modality=n)
        b.value("controls.duplicate", 0.5 / (i + 1), unit="nats", modality=n)
    b.add("controls.untrained", value=-0.004, interval=(-0.013, 0.001), unit="share")


def _collision(b: Builder, names: tuple[str, ...]) -> None:
    m = len(names)
    b.add("collision.bound", value=(m - 1) / m, unit="probability")
    b.add("collision.expected", value=0.75, interval=(0.64, 0.86), unit="share of neurons")
    b.add("collision.cross_modal", value=0.06, interval=(0.01, 0.26), unit="share of neurons")
    b.value("collision.polysemantic", 1.0, unit="share of neurons", spread=0)
    for i, n in enumerate(names):
        b.value("collision.drivers", 2 * (m - i) / (m * (m + 1)), unit="share of places", modality=n)
        for j, other in enumerate(names):
            if i != j:
                b.value("collision.pair", 0.2 / (1 + i + j), unit="share of neurons", modality=n, versus=other)


def _entanglement(b: Builder, names: tuple[str, ...]) -> None:
    b.add("entanglement.entangled", value=0.2, interval=(0.1, 0.3), unit="share of neurons")
    b.add("entanglement.expected", value=0.22, interval=(0.12, 0.3), unit="share of neurons")
    b.value("entanglement.shared_drive", 0.04, unit="probability")
    b.value("entanglement.expected_shared", 0.14, unit="probability")
    for i, n in enumerate(names):
        b.value("entanglement.predictive_drive", 0.8 / 3**i, unit="share of drive", modality=n)
        b.value("entanglement.noisy_drive", 0.02 * i, unit="share of drive", modality=n)
        for j, other in enumerate(names):
            if i != j:
                b.value("entanglement.pair", 0.05 * i / (1 + j), unit="share of neurons", modality=n, versus=other)


def _similarity(b: Builder, names: tuple[str, ...]) -> None:
    for i, n in enumerate(names):
        for j, other in enumerate((*names, None)):
            if i != j:
                alike = 0.9 - 0.8 * abs(i - j) / (len(names) + 1)
                b.value("similarity.cka", alike, unit=CKA, modality=n, versus=other, spread=0.02)
        b.value("similarity.procrustes", 0.9 - 0.05 * i, unit=COSINE, modality=n)
        b.value("similarity.procrustes_null", 0.1, unit=COSINE, modality=n)
        swept = {"modality": names[-1], "versus": n, "band": 0.02, "unit": COSINE}
        b.curve("similarity.procrustes_sweep", BETAS, 0.9 - 0.1 * i + 0.01 * np.array(BETAS), ("β", COSINE), **swept)


def _sets(names: tuple[str, ...]) -> list[str]:
    """All sets of few modalities; of many those that hold none, one, all but one, and all."""
    if len(names) <= 6:
        every = [s for size in range(len(names) + 1) for s in combinations(names, size)]
    else:
        every = [(), *((n,) for n in names), *(tuple(o for o in names if o != n) for n in names), names]
    return ["+".join(s) or "(none)" for s in every]


def _subsets(b: Builder, names: tuple[str, ...]) -> None:
    sets = _sets(names)
    sizes = np.array([0 if s == "(none)" else 1 + s.count("+") for s in sets])
    for part, y in (("subsets", 2.3 - 2 * sizes / len(names)), ("subsets_metric", 0.1 + 0.8 * sizes / len(names))):
        b.curve(f"reliance.{part}", sets, y, ("modalities present", "loss (nats)"), band=0.03)


def _robustness(b: Builder, names: tuple[str, ...]) -> None:
    rates = np.linspace(0.1, 0.9, 9)
    for k, fill in enumerate(FILLS):
        b.curve(
            f"missing.rates.{fill}", rates, 0.97 - (0.1 + 0.15 * k) * rates, ("rate missing", "accuracy"), band=0.03
        )
        absent = _sets(names)[1:-1]
        y = 0.95 - 0.1 * k * np.array([1 + s.count("+") for s in absent]) / len(names)
        b.curve(f"missing.patterns.{fill}", absent, y, ("modalities absent", "accuracy"), band=0.02)
    for i, n in enumerate(names):
        drop = 0.36 / (i + 1) - 0.02
        y = 0.98 - drop * np.array(LEVELS)
        ends = {"interval": (drop - 0.05, drop + 0.05), "modality": n}
        b.curve("missing.drop", LEVELS, y, ("rate missing", "accuracy"), value=drop, unit="accuracy", **ends)
        for place, size in (("input", 0.2), ("feature", 0.5)):
            left = 1 - size / (i + 1) / 4
            y = 0.98 - size / (i + 1) * np.array(LEVELS)
            about = {"value": left, "interval": (left - 0.02, left + 0.02), "unit": "ratio", "modality": n}
            b.curve(f"noise.{place}", LEVELS, y, ("noise level (part of the spread)", "accuracy"), band=0.01, **about)


def _gradient_rank(b: Builder, names: tuple[str, ...]) -> None:
    b.add("gradient_rank.gradient_effective_rank", value=10.2, interval=(5.8, 15.8), unit="dimensions")
    layers = [f"fusion.blocks.{i}.projection.weight" for i in range(3)]
    b.curve(
        "gradient_rank.layers", layers, np.array([10.0, 7.5, 3.2]), ("weights", "effective rank"), unit="dimensions"
    )
    b.add("gradient_rank.agop_effective_rank", value=7.1, interval=(7.05, 7.15), unit="dimensions")
    for i, n in enumerate(names):
        b.value("gradient_rank.alignment", 0.6 / (i + 1), unit="squared cosine", modality=n)
        b.value("gradient_rank.ansatz", 0.95, unit="cosine", modality=n)
        for j, other in enumerate(names):
            if i != j:
                pull = 0.9 - 1.3 * (i + j) / (2 * len(names) - 1)
                b.add(
                    "gradient_rank.conflict",
                    value=pull,
                    interval=(max(-1.0, pull - 0.1), min(1.0, pull + 0.1)),
                    unit="cosine",
                    modality=n,
                    versus=other,
                )


def _fusion_gain(b: Builder, names: tuple[str, ...]) -> None:
    for i, n in enumerate(names):
        for j, other in enumerate(names):
            if i != j:
                for part, value in (("gain", 2.0 * (i - j)), ("random_gain", 3.0 * (i - j)), ("excess", 1.0 * (j - i))):
                    about = {"unit": "dimensions", "modality": n, "versus": other, "spread": 0.4}
                    b.value(f"fusion_gain.{part}", value, **about)


def _growing(b: Builder, names: tuple[str, ...]) -> None:
    steps = ["+".join(names[:k]) for k in range(1, len(names) + 1)]
    up = np.arange(len(steps))
    for part, y, unit in (
        ("metric", 0.9 + 0.01 * up, "accuracy"),
        ("loss", 0.3 - 0.02 * up, "nats"),
        ("prefix_gap", 0.03 + 0.02 * up, "nats"),
        ("vif_mean", 199 + 20.0 * up, "times"),
        ("effective_rank", 18 - 0.5 * up, "dimensions"),
        ("numerical_rank", 62 - 1.0 * up, "dimensions"),
    ):
        b.curve(f"growing.{part}", steps, y, ("modalities", unit), band=0.001, unit=unit)
    for i, n in enumerate(names[:2]):
        b.curve(
            "growing.prefix_gap", steps, 0.02 + 0.03 * up * i, ("modalities", "nats"), band=0.1, modality=n, unit="nats"
        )


def _pathway(b: Builder, names: tuple[str, ...]) -> None:
    for i, n in enumerate(names):
        b.value("pathway.moves", 0.9 / 3**i, unit="share", modality=n)
        b.value("pathway.adds", 0.05 * i, unit="share", modality=n)
        b.value("reliance.flips", 0.5 / (i + 1), unit="share", modality=n, spread=0.03)


PARTS = (
    _controls,
    _collision,
    _entanglement,
    _similarity,
    _robustness,
    _gradient_rank,
    _fusion_gain,
    _growing,
    _pathway,
)


@cache
def every_probe(names: tuple[str, ...]) -> Report:
    """A report over ``names`` with numbers of every probe of the package."""
    # Subsets of many are many: the sample has those of six at most.
    whole = make_report(names[:6]) if len(names) > 6 else make_report(names)
    b = Builder()
    for part in PARTS:
        part(b, names)
    if len(names) == len(whole.subject.modalities):
        return whole.model_copy(update={"results": (*whole.results, *b.results)})
    subject = whole.subject.model_copy(update={"modalities": names})
    own = tuple(r for name in _others(names) for r in name)
    return whole.model_copy(update={"subject": subject, "results": (*own, *b.results)})


def _others(names: tuple[str, ...]) -> list[list]:
    """Results of the first sample over more modalities than it has room for: all but those over subsets."""
    from sample_reports import _representation, _spectrum, _sweep, _utilisation

    b = Builder()
    _subsets(b, names)
    for part in (_utilisation, _spectrum, _sweep, _representation):
        part(b, names)
    for i, n in enumerate(names):
        for measure in ("shapley", "leave_one_out", "shapley_metric", "leave_one_out_metric"):
            b.value(f"reliance.{measure}", 1.0 / (i + 1), unit="nats", modality=n, spread=0.1)
    return [b.results]

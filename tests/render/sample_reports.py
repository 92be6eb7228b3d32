"""Reports as a diagnosis would leave them, for any number of modalities with any names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from collapsekit.report.diagnosis import Curve, Judged, ModalityVerdict, Report, Result, Subject
from collapsekit.report.verdicts import judge
from collapsekit.stats.use import use

MakeReport = Callable[..., Report]

HOSTILE = (
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b]8;;http://evil.example\x07link",
    "[/bold][link=http://evil.example]x",
    "a|b`c`$x_1$ *d* [e](http://evil.example) @user",
    "=cmd|'/c calc'!A1\n::error::gone ##[error]gone",
    "\u202egnihtemos\u2066\u200b\u2028{{ 7*7 }}\x00\ud800 _start",
)
LONG = (
    "front_left_fisheye_camera_depth_completion_encoder",
    "front_right_fisheye_camera_depth_completion_encoder",
    "electrocardiogram-lead-II-preprocessed",
    "text",
    "unbrokenmodalitynamewithoutanyseparatorwhatsoever",
    "音声モダリティ",
)
SOURCES = {
    "reliance": "Shapley 1953; Covert et al. 2021, Eq. 4",
    "utilisation": "Covert et al. 2021, Eq. 7",
    "prefix_gap": "Chaudhuri et al. 2025, Section 4",
    "rank_sweep": "Chaudhuri et al. 2025, Figure 5",
    "spectrum": "Roy & Vetterli 2007, Eq. 3",
    "vif": "Chaudhuri et al. 2025, Table 7",
    "polysemanticity": "Chaudhuri et al. 2025, Table 2",
}


class Builder:
    """Adds results with an interval, a definition and a source."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def value(self, name: str, value: float, *, spread: float = 0.05, **more: Any) -> None:
        self.add(name, value=value, interval=(value - abs(value) * spread, value + abs(value) * spread), **more)

    def curve(self, name: str, x: Any, y: Any, labels: tuple[str, str], *, band: float = 0.0, **more: Any) -> None:
        y = [float(v) for v in y]
        bounds: dict[str, Any] = {}
        if band:
            bounds = {"lower": tuple(v * (1 - band) for v in y), "upper": tuple(v * (1 + band) for v in y)}
        line = Curve(x=tuple(x), y=tuple(y), x_label=labels[0], y_label=labels[1], **bounds)
        self.add(name, curve=line, **more)

    def add(self, name: str, **more: Any) -> None:
        probe = name.split(".")[0]
        definition = f"The {name.split('.')[1].replace('_', ' ')} of the {probe} probe, as a number <of> its & own."
        source = SOURCES.get(probe, 'A user\'s own "probe"')
        self.results.append(Result(name=name, probe=probe, definition=definition, source=source, **more))


def _subsets(b: Builder, names: tuple[str, ...]) -> None:
    m = len(names)
    worth = {n: 0.9 / (i + 1) ** 1.5 if i != m - 1 else 0.01 for i, n in enumerate(names)}
    whole = sum(worth.values()) / 0.95
    worth = {n: value / whole for n, value in worth.items()}  # what each adds to any others, so that it is its credit
    labels, losses, metrics = [], [], []
    for size in range(m + 1):
        for members in combinations(names, size):
            labels.append("+".join(members) or "(none)")
            gain = sum(worth[n] for n in members)
            losses.append(2.3 - 2.0 * gain)
            metrics.append(0.1 + 0.7 * gain)
    b.curve("reliance.subsets", labels, losses, ("subset", "loss (nats)"), band=0.03)
    b.curve("reliance.subsets_metric", labels, metrics, ("subset", "accuracy"), band=0.02)
    b.value("reliance.full_loss", losses[-1], unit="nats")
    b.value("reliance.full_metric", metrics[-1], unit="accuracy")
    b.value("reliance.empty_loss", 2.3, unit="nats", spread=0)
    b.value("reliance.empty_metric", 0.1, unit="accuracy")
    for n in names:
        b.value("reliance.shapley", 2.0 * worth[n], unit="nats", modality=n, spread=0.12)
        b.value("reliance.leave_one_out", 2.0 * worth[n], unit="nats", modality=n, spread=0.3)
        b.value("reliance.shapley_metric", 0.7 * worth[n], unit="accuracy", modality=n, spread=0.1)
        b.value("reliance.leave_one_out_metric", 0.7 * worth[n], unit="accuracy", modality=n, spread=0.2)


def _utilisation(b: Builder, names: tuple[str, ...]) -> None:
    """The last is ignored; of more than two the second is not decided, of more than three the third is underused."""
    last = names[-1]
    b.value("utilisation.prior_loss", 2.3, unit="nats")
    for i, n in enumerate(names):
        reference = 0.9 / (i + 1)
        undecided, underused = i == 1 and n != last, i == 2 and n != last
        ratio = 0.3 if underused else min(0.1, 0.02 / reference) if n == last else 0.8
        credit = ratio * reference
        b.value("utilisation.credit", credit, unit="nats", modality=n)
        b.value("utilisation.reference_credit", reference, unit="nats", modality=n)
        ends = (0.0, 1.0) if undecided else (0.95 * ratio, 1.05 * ratio)
        b.add("utilisation.ratio", value=ratio, interval=ends, modality=n)
        b.value("utilisation.alone_gain", reference * 1.2, unit="nats", modality=n)
        b.add("utilisation.reference_trained", value=1.0, modality=n)
        if undecided:
            continue
        score = 1 - use(credit, reference, 2.3)
        b.add("utilisation.score", value=score, interval=(0.9 * score, min(1.0, 1.05 * score)), modality=n)
        b.value("utilisation.costs_now", 0.41 if n == last else 0.0, unit="accuracy", modality=n)
        for j, other in enumerate(names):
            if other != n:
                b.value("utilisation.costs_if_missing", 0.63 / (j + 1), unit="accuracy", modality=n, versus=other)


def _spectrum(b: Builder, names: tuple[str, ...]) -> None:
    for i, n in enumerate((*names, None)):
        y = np.exp(-np.arange(32) / (4.0 + 3 * i))
        b.curve("spectrum.eigenvalues", range(1, 33), y / y.sum(), ("index", "share of variance"), modality=n)
        b.value("spectrum.effective_rank", 12.34 + i, unit="dimensions", modality=n)
        b.value("spectrum.numerical_rank", 20.0 + i, unit="dimensions", modality=n, spread=0)
        b.value("spectrum.stable_rank", 1.8, unit="dimensions", modality=n)
        b.value("spectrum.participation_ratio", 6.5, unit="dimensions", modality=n)
        b.value("spectrum.null_effective_rank", 31.2, unit="dimensions", modality=n)


def _sweep(b: Builder, names: tuple[str, ...]) -> None:
    betas = [i / 8 for i in range(9)]
    for i, n in enumerate(names):
        up = np.linspace(8.0 + i, 13.0 + i, 9)
        for part, y in (("effective_rank", up), ("stable_rank", up / 5), ("participation_ratio", up / 2)):
            b.curve(f"rank_sweep.{part}", betas, y, ("β", "dimensions"), modality=n, band=0.04)
        b.curve("rank_sweep.numerical_rank", betas, 24 - 8 * np.array(betas) - i, ("β", "dimensions"), modality=n)
        b.curve("rank_sweep.metric", betas, 0.5 + 0.3 * np.sqrt(betas) / (i + 1), ("β", "accuracy"), modality=n)
        b.curve("rank_sweep.loss", betas, 2 - np.sqrt(betas) / (i + 1), ("β", "nats"), modality=n)
        for other in names:
            b.curve("rank_sweep.cka", betas, np.linspace(0.1, 0.8, 9), ("β", "CKA"), modality=n, versus=other)
        b.value("rank_sweep.unimodal_rank", 17.0 - i, unit="dimensions", modality=n, spread=0)
        if i == 0:
            b.value("rank_sweep.critical_beta", 0.375, modality=n)
        else:
            b.add("rank_sweep.critical_beta", modality=n, skipped="the rank never crosses the unimodal rank")


def _representation(b: Builder, names: tuple[str, ...]) -> None:
    m = len(names)
    for i, n in enumerate(names):
        b.value("prefix_gap.prefix_loss", 1.2 + 0.1 * i, unit="nats", modality=n)
        b.value("prefix_gap.baseline_loss", 1.1, unit="nats", modality=n)
        b.value("prefix_gap.prefix_metric", 0.6 - 0.05 * i, unit="accuracy", modality=n)
        b.value("prefix_gap.baseline_metric", 0.66, unit="accuracy", modality=n)
        b.value("prefix_gap.gap", 0.1 + 0.1 * i, unit="nats", modality=n, spread=0.4)
        b.value("polysemanticity.drive", 1 / m, modality=n)
        y = np.linspace(0, 1, 24) if i == 0 else np.linspace(1, 0, 24) / (m - 1)
        b.curve("polysemanticity.neurons", range(24), y, ("neuron", "share"), modality=n)
    vif = np.exp(np.linspace(0.1, 4, 24))
    for part, v in (("mean", vif.mean()), ("median", np.median(vif)), ("max", vif.max())):
        b.value(f"vif.{part}", float(v), note="2 of 26 columns were constant and dropped" if part == "mean" else None)
    b.curve("vif.per_feature", range(24), vif, ("neuron", "VIF"))
    for part, v in (("cross_entropy", 5.66), ("entropy", 0.21), ("uniform", math.log(m)), ("drive_entropy", 0.5)):
        b.value(f"polysemanticity.{part}", v, unit="nats")
    b.value("polysemanticity.cross_modal_fraction", 0.42)


REASONS = {
    "used": "The model earns 0.88 nats with it, 97 % of what a balanced reference earns.",
    "underused": "The model earns 0.88 nats with it, 97 % of what a balanced reference earns.",
    "inconclusive": "The interval spans both thresholds: give more examples.",
    "collapsed": (
        "It alone predicts at 0.71 accuracy, yet the model earns 2 % of its credit from it: "
        "shared neurons carry the other modalities' noise; try `collapsekit repair --method reallocate`."
    ),
}


def verdicts_of(results: Sequence[Result], names: tuple[str, ...]) -> dict[str, ModalityVerdict]:
    """What the results say of each modality, in words that are the same in all tests."""
    each = judge(results, names, "accuracy").each
    return {n: v.model_copy(update={"reason": REASONS[v.verdict]}) for n, v in each.items()}


def make_report(names: tuple[str, ...] = ("image", "audio"), **changes: Any) -> Report:
    """A whole report over ``names``, the last one of which is collapsed."""
    whole = _whole(names)
    return Report(**{**dict(whole), **changes}) if changes else whole


@cache
def _whole(names: tuple[str, ...]) -> Report:
    b = Builder()
    for part in (_subsets, _utilisation, _spectrum, _sweep, _representation):
        part(b, names)
    b.value("calibration.ece", 0.0312, note="15 bins")
    b.add("calibration.per_class", skipped="it needs at least 10 examples in each class, the smallest has 4")
    fields: dict[str, Any] = {
        "collapsekit": "0.1.0",
        "subject": Subject(
            checkpoint="runs/avmnist/ckpt.pt",
            sha256="0f" * 32,
            modalities=names,
            task="classification",
            metric="accuracy",
            split="test",
            examples=1000,
            seed=0,
        ),
        "verdict": "collapsed",
        "summary": f"The model ignores {names[-1]}, using which would gain 0.41 accuracy.",
        "judged": Judged(extent="fully"),
        "rules": 2,
        "modalities": verdicts_of(b.results, names),
        "results": tuple(b.results),
        "settings": {
            "command": "collapsekit diagnose runs/avmnist/ckpt.pt --profile standard --seed 0",
            "profile": "standard",
            "seed": 0,
            "probes": {"rank_sweep": {"betas": [0.0, 0.5, 1.0], "mode": "scale"}, "vif": {}},
            "config": {"modalities": {n: {"encoder": f"encoders.{n}"} for n in names}, "fusion": "fusion"},
        },
        "environment": {
            "created": "2025-01-01T00:00:00Z",
            "device": "cpu",
            "versions": {"torch": "2.10.0", "numpy": "2.1.0"},
        },
    }
    return Report(**fields)


def nothing_measured() -> Report:
    """A report in which nothing could be measured."""
    b = Builder()
    b.add("spectrum.effective_rank", skipped="the split holds 3 examples, a rank needs 2·d = 128")
    verdict = ModalityVerdict(verdict="inconclusive", score=None, reason="Nothing was measured.")
    names = ("image", "audio")
    return make_report(
        names,
        verdict="inconclusive",
        summary="Nothing could be measured.",
        judged=None,
        rules=None,
        modalities=dict.fromkeys(names, verdict),
        results=tuple(b.results),
        settings={},
        environment={},
    )

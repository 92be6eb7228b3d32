"""Draw the picture of every probe's page from one diagnosis of the embedded example.

    python docs/probes/pictures.py [REPORT.json]

writes NAME.png beside this file, and the report they were drawn from to REPORT.json where that is named.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import diagnose
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.config.load import load_config
from collapsekit.config.schema import Config
from collapsekit.context import Progress
from collapsekit.demo.make import EPOCHS, demo_data, make_demo
from collapsekit.demo.model import WIDTHS, FusionModel
from collapsekit.io.files import write_atomic
from collapsekit.render.figures.diagnosis import FIGURES
from collapsekit.render.figures.marks import bar_figure, bars, legend, line
from collapsekit.render.figures.style import INK, panels, settle, theme
from collapsekit.report.diagnosis import Report, Result

WAY = ("pix", "kar", "zer")  # the first ones of the order in which `growing` adds the views: strongest first
DPI, COLOURS = 170, 64


class OfViews(FusionModel):
    """The example's model with some of its views only."""

    def __init__(self, views: Sequence[str], hidden: int = 64, fused: int = 64) -> None:
        super().__init__(hidden, fused)
        self.encoders = nn.ModuleDict({view: self.encoders[view] for view in views})
        self.fusion = nn.Sequential(nn.Linear(hidden * len(views), fused), nn.ReLU())

    def forward(self, **views: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(**{view: views.get(view, torch.empty(0)) for view in WIDTHS})


def train(views: Sequence[str], data: dict[str, Tensor]) -> nn.Module:
    """The recipe of ``collapsekit.demo.make.train_demo``."""
    y = data["train/label"]
    with preserve_rng_state():
        seed_everything(0)
        model = OfViews(views)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-3)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(y)).split(64):
                loss = F.cross_entropy(model(**{view: data[f"train/{view}"][rows] for view in views}), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model


def example(folder: Path) -> Config:
    """The example in ``folder``, with models of its first two and three views for `growing`."""
    make_demo(folder, 0, Progress())
    data, subsets = demo_data(), []
    for views in (WAY[:2], WAY[:3]):
        named = {"modalities": views, "checkpoint": f"{'_'.join(views)}.pt"}
        torch.save(train(views, data).state_dict(), folder / f"{'_'.join(views)}.pt")
        subsets.append({**named, "factory": "pictures:OfViews", "kwargs": {"views": views}})
    with (folder / "collapsekit.yaml").open("a") as config:
        config.write(f"subsets: {json.dumps(subsets)}\n")
    return load_config(folder / "collapsekit.yaml")


def _rows(ax: Axes, rows: dict[str, Result | None], unit: str) -> None:
    bars(ax, list(rows), {"": list(rows.values())})
    ax.set_xlabel(unit)
    ax.locator_params(axis="x", nbins=6)


def _lines(ax: Axes, found: Iterable[Result | None], x: str, y: str) -> None:
    for i, result in enumerate(found):
        if result is not None:
            line(ax, result, i, result.modality or "")
    ax.set(xlabel=x, ylabel=y)


def similarity(report: Report) -> Figure | None:
    measured, shuffled = "with the fused representation", "with its examples shuffled"
    aligned = {measured: "similarity.procrustes", shuffled: "similarity.procrustes_null"}
    return bar_figure(report, True, {"CKA": {measured: "similarity.cka"}, "Procrustes cosine": aligned})


def collision(report: Report) -> Figure:
    fig, (left, right) = panels(2, height=1.6)
    shown = {"cross_modal": "cross-modal", "expected": "by chance", "bound": "Lemma 1", "polysemantic": "polysemantic"}
    _rows(left, {text: report.find(f"collision.{name}") for name, text in shown.items()}, "share of fused neurons")
    _rows(right, {m: report.find("collision.drivers", m) for m in WIDTHS}, "share of strongest features")
    return fig


def missing(report: Report) -> Figure:
    fig, (left, right) = panels(2, height=2.3)
    _rows(left, {m: report.find("missing.drop", m) for m in WIDTHS}, "accuracy lost without it (best fill)")
    fills = ("zeros", "mean", "neighbour", "sample", "late")
    _lines(right, [report.find(f"missing.rates.{f}") for f in fills], "rate at which views are missing", "accuracy")
    right.legend(right.get_lines(), fills, handlelength=2.4, loc="lower left")
    return fig


def noise(report: Report) -> Figure:
    fig, axes = panels(2, height=2.1)
    for ax, place in zip(axes, ("input", "feature"), strict=True):
        _lines(ax, [report.find(f"noise.{place}", m) for m in WIDTHS], "noise level (part of the range)", "accuracy")
        ax.set_title(f"noise on the {place}s")
    axes[1].sharey(axes[0])
    legend(fig)
    return fig


def gradient_rank(report: Report) -> Figure:
    fig, (left, right) = panels(2, height=2.2)
    names = list(WIDTHS)
    found = {(r.modality or "", r.versus or ""): r.value for r in report.named("gradient_rank.conflict")}
    # Twice the range a cosine has, so that all fields are light enough for the text on them.
    left.imshow([[found.get((a, b)) or math.nan for b in names] for a in names], cmap="RdBu", vmin=-2, vmax=2)
    for (a, b), value in found.items():
        left.text(names.index(b), names.index(a), f"{value:.2f}", ha="center", va="center", color=INK, size=8)
    left.set(xticks=range(4), yticks=range(4), xticklabels=names, yticklabels=names, title="conflict (cosine)")
    left.grid(visible=False)
    parts = {"alignment": "gradient_rank.alignment", "ansatz": "gradient_rank.ansatz"}
    bars(right, names, {k: [report.find(name, m) for m in names] for k, name in parts.items()})
    right.set_xlabel("alignment: squared cosine; ansatz: cosine")
    fig.legend(loc="outside upper right", ncols=2)
    return fig


def fusion_gain(report: Report) -> Figure:
    fig, (ax,) = panels(1, height=3.6)
    pairs = [(a, b) for a in WIDTHS for b in WIDTHS if a != b]
    parts = {"weakest channels": "fusion_gain.gain", "random channels": "fusion_gain.random_gain"}
    rows = {k: [report.find(name, *pair) for pair in pairs] for k, name in parts.items()}
    bars(ax, [f"{a} from {b}" for a, b in pairs], rows)
    ax.set_xlabel("gain in effective rank (dimensions)")
    fig.legend(loc="outside upper right", ncols=2)
    return fig


def entanglement(report: Report) -> Figure:
    fig, (left, right) = panels(2, height=1.9)
    shown = {"entangled": "entangled", "expected": "by chance", "shared_drive": "shared drive"}
    shown["expected_shared"] = "the same, permuted"
    _rows(
        left,
        {text: report.find(f"entanglement.{name}") for name, text in shown.items()},
        "share of fused neurons, of drive",
    )
    parts = {"predictive": "entanglement.predictive_drive", "noisy": "entanglement.noisy_drive"}
    bars(right, list(WIDTHS), {k: [report.find(name, m) for m in WIDTHS] for k, name in parts.items()})
    right.set_xlabel("share of a neuron's drive")
    fig.legend(loc="outside upper right", ncols=2)
    return fig


def growing(report: Report) -> Figure:
    fig, axes = panels(4, height=1.6)
    parts = {"metric": "accuracy", "prefix_gap": "mean gap (nats)", "vif_mean": "mean VIF", "ranks": "dimensions"}
    for ax, (part, label) in zip(axes, parts.items(), strict=True):
        names = ("effective_rank", "numerical_rank") if part == "ranks" else (part,)
        for i, result in enumerate(r for name in names for r in report.named(f"growing.{name}")):
            assert result.curve is not None
            steps = [str(x) for x in result.curve.x]
            counts = tuple(float(x.count("+") + 1) for x in steps)
            line(ax, result.model_copy(update={"curve": result.curve.model_copy(update={"x": counts})}), i)
            ax.set_xticks(counts, [steps[0], *(f"+{x.rpartition('+')[2]}" for x in steps[1:])])
        ax.set_ylabel(label)
        if part == "ranks":
            ax.legend(ax.get_lines(), [n.replace("_", " ") for n in names], handlelength=2.4)
    return fig


OWN = (similarity, collision, missing, noise, gradient_rank, fusion_gain, entanglement, growing)
DRAW: dict[str, Callable[[Report], Figure | None]] = {
    **FIGURES,
    **{"spectrum": FIGURES["spectra"], "rank_sweep": FIGURES["beta_curves"]},
    **{f.__name__: f for f in OWN},
}


def draw(report: Report) -> None:
    for probe in sorted({r.probe for r in report.results} & DRAW.keys()):
        with theme():
            fig = DRAW[probe](report)
            assert fig is not None, probe
            settle(fig)
            sink = BytesIO()
            fig.savefig(sink, format="png", dpi=DPI, facecolor="white")
        small = BytesIO()  # a third of the size, and no difference to be seen
        Image.open(sink).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
        write_atomic(Path(__file__).with_name(f"{probe}.png"), small.getvalue())


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        config, cache = example(Path(folder)), Path(folder) / "cache"
        made = diagnose(config=config, subsets=True, cache=cache)
        named = diagnose(config=config, probes=["entanglement"], cache=cache)
    if len(sys.argv) > 1:
        write_atomic(Path(sys.argv[1]), made.to_json())
    draw(made)
    draw(named)

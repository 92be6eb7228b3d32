"""Draw the picture of every probe's page from one diagnosis of the embedded example.

    python docs/probes/pictures.py [REPORT.json]

writes NAME.png beside this file, and the report they were drawn from to REPORT.json where that is named.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
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
from collapsekit.render.figures import diagnosis as figures
from collapsekit.render.figures.style import settle, theme
from collapsekit.report.diagnosis import Report

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


def draw(report: Report, *, but: frozenset[str] = frozenset()) -> set[str]:
    """Write the first figure of every probe that the report has numbers of, save of those in ``but``; which they are."""
    written = set()
    for probe in sorted({r.probe for r in report.results} - but):
        fig = figures.draw(report, probe)
        if fig is None:
            continue
        with theme():
            settle(fig)
            sink = BytesIO()
            fig.savefig(sink, format="png", dpi=DPI, facecolor="white")
        small = BytesIO()  # a third of the size, and no difference to be seen
        Image.open(sink).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
        write_atomic(Path(__file__).with_name(f"{probe}.png"), small.getvalue())
        written.add(probe)
    return written


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        config, cache = example(Path(folder)), Path(folder) / "cache"
        made = diagnose(config=config, subsets=True, cache=cache)
        named = diagnose(config=config, probes=["entanglement"], cache=cache)
    if len(sys.argv) > 1:
        write_atomic(Path(sys.argv[1]), made.to_json())
    draw(named, but=frozenset(draw(made)))

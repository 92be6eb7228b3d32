"""Every probe has a picture: drawn from what the probe declares, within its canvas, the same bytes twice."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from sample_pictures import every_probe
from sample_reports import HOSTILE, LONG

from collapsekit.render.figures import style
from collapsekit.render.figures.diagnosis import FIGURES, draw, pictures_of

TWELVE = tuple(f"{name}{i}" for i, name in enumerate(2 * LONG))
NAMES = {"two": ("image", "audio"), "six-long": LONG, "six-hostile": HOSTILE, "twelve-long": TWELVE}
SLACK = 1.0 / 72  # inches by which a letter may lean over the edge


def outside(fig: Figure, dpi: float = 120) -> list[str]:
    """Texts that are drawn over the edge of the canvas."""
    drawn: list[Text] = []
    draw_text = Text.draw

    def record(text: Text, renderer: Any) -> None:
        drawn.append(text)
        draw_text(text, renderer)

    with style.theme(), pytest.MonkeyPatch.context() as patch:
        style.settle(fig)
        fig.set_dpi(dpi)
        canvas: Any = FigureCanvasAgg(fig)
        patch.setattr(Text, "draw", record)
        canvas.draw()
    renderer, edge, slack = canvas.get_renderer(), fig.bbox.padded(SLACK * dpi), SLACK * dpi
    assert slack < edge.width / 100
    shown = [(t.get_text(), t.get_window_extent(renderer)) for t in drawn if t.get_text().strip()]
    return [text for text, box in shown if not (edge.contains(*box.min) and edge.contains(*box.max))]


@pytest.mark.parametrize("wide", [True, False], ids=["wide", "narrow"])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_the_text_of_every_picture_fits(names: tuple[str, ...], wide: bool) -> None:
    report = every_probe(names)
    found = {p.name: draw(report, p.name, wide) for p in pictures_of(report)}
    assert set(FIGURES) - set(found) == set()
    cut = {name: outside(fig) for name, fig in found.items() if fig is not None}
    assert {name: texts for name, texts in cut.items() if texts} == {}

"""The figure of an item with many rows."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from collapsekit.render.figures.reproduction import draw
from collapsekit.render.figures.style import SERIES
from collapsekit.reproduce.item import load_items
from tests.render.sample_reproduction import make_reproduction


@pytest.mark.parametrize("count", [2, len(SERIES) + 3])
def test_lines_are_no_more_than_colours_and_the_first_rows(count: int) -> None:
    report = make_reproduction(tuple(f"row {i}" for i in range(count))).model_copy(update={"drawn": "lines"})
    figure = draw(report)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    plt.close(figure)
    assert len(labels) == min(count, len(SERIES))
    assert labels == [f"row {i}" for i in range(len(labels))]


@pytest.mark.parametrize("printed", [False, True])
def test_the_legend_is_no_wider_than_the_figure(printed: bool) -> None:
    report = make_reproduction(tuple(f"gap after {i} epochs" for i in range(6)))
    cells = [cell if printed else cell.model_copy(update={"paper": None}) for cell in report.cells]
    figure = draw(report.model_copy(update={"drawn": "lines", "cells": tuple(cells)}))
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    plt.close(figure)
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_bars_are_of_every_row() -> None:
    figure = draw(make_reproduction(tuple(f"row {i}" for i in range(8))).model_copy(update={"drawn": "bars"}))
    labels = figure.axes[0].get_legend_handles_labels()[1]
    plt.close(figure)
    assert len(labels) == 8


def test_ranks_are_drawn_before_likeness() -> None:
    rows = load_items()["s1.figure5"].rows
    assert not any("likeness" in row for row in rows[: len(SERIES)])
    assert all("likeness" in row for row in rows[len(SERIES) :])

"""``report.plot``: a figure for every name that is drawn, and one sentence for others."""

from __future__ import annotations

import pickle

import pytest
from matplotlib.figure import Figure
from sample_reports import HOSTILE, make_report, nothing_measured

from collapsekit import ext
from collapsekit.render.figures.diagnosis import pictures_of
from collapsekit.render.plotting import drawable

REPORT = make_report(("image", "audio"))


@pytest.mark.parametrize("name", [picture.name for picture in pictures_of(REPORT)])
def test_every_figure_is_drawn_by_its_name(name: str) -> None:
    wide, narrow = REPORT.plot(name), REPORT.plot(name, wide=False)
    assert isinstance(wide, Figure)
    assert narrow.get_figwidth() <= wide.get_figwidth()
    assert wide.axes


def test_every_probe_with_a_picture_is_drawn_by_its_name() -> None:
    names = list(drawable(REPORT))
    assert {"reliance", "rank_sweep", "spectrum", "vif"} <= set(names)
    for name in names:
        assert REPORT.plot(name).axes


def test_a_notebook_sees_it_without_pyplot_on_white_and_the_same_twice() -> None:
    figure = REPORT.plot("vif")
    data = figure._repr_png_()  # type: ignore[attr-defined]
    assert data.startswith(b"\x89PNG")
    assert data == figure._repr_png_() == REPORT.plot("vif")._repr_png_()  # type: ignore[attr-defined]
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def test_it_is_pickled_as_figures_are() -> None:
    twin = pickle.loads(pickle.dumps(REPORT.plot("reliance")))
    assert twin._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rank_swep", "did you mean 'rank_sweep'"),
        ("a\x1b[31m\n", "'a\\x1b[31m\\n'"),
        (3, "not int"),
    ],
)
def test_a_name_that_is_not_drawn_is_answered_in_one_sentence(name: object, words: str) -> None:
    with pytest.raises(ext.ConfigError) as raised:
        REPORT.plot(name)  # type: ignore[arg-type]
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_why_nothing_is_drawn_is_said() -> None:
    kept = tuple(r for r in REPORT.results if r.probe != "vif")
    with pytest.raises(ext.ConfigError, match="the probe 'vif' was not run"):
        REPORT.model_copy(update={"results": kept}).plot("vif")
    bare = nothing_measured()
    skipped = next(r for r in bare.results if r.skipped is not None and r.probe in ("reliance", "vif", "spectrum"))
    with pytest.raises(ext.ConfigError, match="it was skipped"):
        bare.plot(skipped.probe)
    assert list(drawable(bare)) == []


def test_names_in_a_figure_do_not_act() -> None:
    assert make_report(HOSTILE).plot("reliance")._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]

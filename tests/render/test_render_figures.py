from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from sample_pictures import every_probe
from sample_reports import HOSTILE, LONG, MakeReport

from collapsekit.errors import ConfigError
from collapsekit.render.figures import marks
from collapsekit.render.figures.diagnosis import CAPTIONS, FIGURES, inline_svg, save
from collapsekit.render.figures.style import VARIABLES, panels, short_labels, theme
from collapsekit.render.numbers import fmt_estimate
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import cleaned, modality_names


@pytest.fixture(params=[("image", "audio"), LONG, HOSTILE], ids=["two", "six-long", "six-hostile"])
def report(request: pytest.FixtureRequest) -> Report:
    """With numbers of every probe."""
    return every_probe(request.param)


def test_each_figure_is_drawn_or_is_none(report: Report, bare: Report) -> None:
    before = dict(matplotlib.rcParams)
    for name, draw in FIGURES.items():
        fig = draw(report)
        assert fig is not None, name
        assert fig.get_figwidth() in (3.4, 6.8)
        assert draw(bare) is None
    assert dict(matplotlib.rcParams) == before
    assert set(CAPTIONS) == set(FIGURES)


def test_pyplot_is_never_imported() -> None:
    code = (
        "import sys, collapsekit.render.figures.diagnosis, collapsekit.render.writers.terminal;"
        "assert 'matplotlib' not in sys.modules;"
        "from sample_pictures import every_probe; from collapsekit.render.figures.diagnosis import FIGURES;"
        "[draw(every_probe(('a', 'b'))) for draw in FIGURES.values()]; assert 'matplotlib.pyplot' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


@pytest.mark.slow
def test_saved_figures_are_the_same_bytes(make_report: MakeReport, tmp_path: Path) -> None:
    whole = make_report(HOSTILE[:3])
    report = make_report(HOSTILE[:3], results=tuple(r for r in whole.results if r.probe in ("vif", "prefix_gap")))
    first, second = save(report, tmp_path / "a"), save(report, tmp_path / "b")
    assert len(first) == 6
    for a, b in zip(first, second, strict=True):
        assert a.name == b.name
        assert b"said-" not in a.read_bytes()
        assert a.read_bytes() == b.read_bytes()
    for alone in save(report, tmp_path / "c", ("pdf",)):  # whatever else is written beside it
        assert alone.read_bytes() == (tmp_path / "a" / alone.name).read_bytes()
    assert sorted(tmp_path.joinpath("a").iterdir()) == sorted(first)


def test_the_last_bits_of_a_layout_do_not_show() -> None:
    """The layout's solver gives other last bits in other processes; ids of what is clipped are hashes of them."""
    pages = []
    for nudge in (0.0, 3e-14):
        with theme():
            fig, (axes, *_) = panels(2)
            axes.plot([0, 1], [0, 1])
            engine = fig.get_layout_engine()
            assert engine is not None
            engine.execute(fig)
            place = axes.get_position()
            axes.set_position((place.x0 + nudge, place.y0, place.width, place.height))
            engine.execute = lambda fig: None  # type: ignore[method-assign]
        pages.append(inline_svg(fig, "a figure"))
    assert "clip-path" in pages[0]
    assert pages[0] == pages[1]


def test_saved_figures_fit_a_paper(make_report: MakeReport, tmp_path: Path) -> None:
    small = make_report(results=tuple(r for r in make_report().results if r.probe in ("vif", "reliance")))
    paths = {p.name: p.read_bytes() for p in save(small, tmp_path)}
    assert set(paths) == {f"{n}.{k}" for n in ("vif", "reliance") for k in ("svg", "pdf", "png")}
    assert int.from_bytes(paths["vif.png"][16:20], "big") == 1020  # 3.4 in at 300 dpi
    assert int.from_bytes(paths["reliance.png"][16:20], "big") == 2040
    assert b"/FontType 42" in paths["vif.pdf"] or b"/CIDFontType2" in paths["vif.pdf"]
    assert b"/Type3" not in paths["vif.pdf"]
    assert b"CreationDate" not in paths["vif.pdf"]
    with pytest.raises(ConfigError, match="'jpeg' is not known"):
        save(small, tmp_path, ("jpeg",))


def test_inline_svg_stands_alone_in_a_page() -> None:
    report = every_probe(HOSTILE[1:4])
    seen: set[str] = set()
    for name, draw in FIGURES.items():
        fig = draw(report)
        assert fig is not None
        text = inline_svg(fig, f"Figure {name} <&>")
        assert text == inline_svg(fig, f"Figure {name} <&>")
        root = ET.fromstring(text)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"] == f"Figure {name} <&>"
        assert "http" not in re.sub(r">[^<]*<", "><", text)
        styles = " ".join(e.attrib.get("style", "") for e in root.iter())
        assert not set(re.findall(r"#[0-9a-f]{6}", styles)), "a colour the page cannot change"
        ids = {e.attrib["id"] for e in root.iter() if "id" in e.attrib}
        assert not ids & seen
        assert set(re.findall(r"(?:href=\"|url\()#([\w-]+)", text)) == ids
        seen |= ids


def titles(text: str) -> list[str]:
    """What an inline figure says where it is pointed at; first what it is."""
    return [e.text or "" for e in ET.fromstring(text).iter() if e.tag == "title"]


def test_a_figure_says_its_numbers_where_they_are_pointed_at(report: Report) -> None:
    clear = cleaned(report)
    names = short_labels(modality_names(clear))
    said = {name: titles(inline_svg(fig, name)) for name, draw in FIGURES.items() if (fig := draw(report)) is not None}
    for r in clear.named("reliance.shapley"):
        assert f"{names[str(r.modality)]}, Shapley: {fmt_estimate(r.value, r.interval)} nats" in said["reliance"]
    for r in clear.named("fusion_gain.gain"):
        pair = f"{r.modality}, {r.versus or 'fused'}: {fmt_estimate(r.value, r.interval)}"
        assert r.value is None or any(text.startswith(pair) for text in said["fusion_gain"])
    curve = next(r.curve for r in clear.named("noise.input") if r.curve is not None)
    assert curve.lower is not None
    assert curve.upper is not None
    for x, y, low, high in zip(curve.x, curve.y, curve.lower, curve.upper, strict=True):
        assert any(f"{x:.4g}: {curve.y_label} {fmt_estimate(y, (low, high))}" in text for text in said["noise"])
    assert [name for name, texts in said.items() if len(texts) == 1] == ["spectra"]  # lines without markers


def test_a_marker_outside_of_the_axes_takes_no_neighbours_number() -> None:
    with theme():
        fig, (ax,) = panels(1)
        marks.marked(ax, [0, 1, 2], [0.1, 0.2, 0.3], 0, "a")
        assert titles(inline_svg(fig, "x"))[1:] == ["a: 0.100", "a: 0.200", "a: 0.300"]
        ax.set_xlim(1.9, 2.1)  # the others are not written
        assert titles(inline_svg(fig, "x"))[1:] == []


def test_page_and_paper_share_one_palette() -> None:
    from collapsekit.render.writers import html

    css = (Path(html.__file__).parent / "style.css").read_text(encoding="utf-8")
    for variable in VARIABLES.values():
        assert css.count(f"{variable}:") >= 2, variable  # light and dark


def test_values_in_a_figure_are_the_report_s(make_report: MakeReport) -> None:
    report = make_report(("one", "two", "three"))
    fig = FIGURES["reliance"](report)
    assert fig is not None
    ax = fig.axes[0]
    shapley = [p.get_width() for p in ax.containers[0]]
    assert shapley == [r.value for r in report.named("reliance.shapley")]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["one", "two", "three"]
    spectra = FIGURES["spectra"](report)
    assert spectra is not None
    curves = {r.modality: r.curve for r in report.named("spectrum.eigenvalues")}
    for axes, name in zip(spectra.axes, ("one", "two", "three"), strict=True):
        before, after = axes.get_lines()
        for drawn, modality in ((before, name), (after, None)):
            curve = curves[modality]
            assert curve is not None
            assert np.array_equal(np.asarray(drawn.get_ydata()), curve.y)


def test_short_labels_stay_distinct() -> None:
    names = ["x" * 40, "x" * 41, "_hidden", "audio", "x" * 42]
    labels = short_labels(names, 20)
    assert len(set(labels.values())) == len(names)
    assert labels["audio"] == "audio"
    assert not any(v.startswith("_") for v in labels.values())
    assert max(map(len, labels.values())) <= 24


@pytest.mark.slow
def test_what_has_no_place_on_paper_is_left_out_of_figures_only(make_report: MakeReport) -> None:
    """An axis to 1e308 cannot be drawn, nor bars of a thousand modalities; the rest of the figure can."""
    whole = make_report()
    far = [r.model_copy(update={"value": 1.7e308, "interval": None}) for r in whole.named("reliance.shapley")]
    kept = tuple(r for r in whole.results if r.name != "reliance.shapley")
    with_far, without = make_report(results=(*kept, *far)), make_report(results=kept)
    drawn = set()
    for name, draw in FIGURES.items():
        one, other = draw(with_far), draw(without)
        assert (one is None, other is None) == (draw(whole) is None,) * 2, name
        if one is not None and other is not None:
            drawn.add(name)
            assert inline_svg(one, "t") == inline_svg(other, "t"), name
    assert len(drawn) >= 5
    many = tuple(f"m{i}" for i in range(65))
    crowded = whole.model_copy(update={"subject": whole.subject.model_copy(update={"modalities": many})})
    assert all(draw(crowded) is None for draw in FIGURES.values())


@pytest.mark.parametrize(
    ("unit", "label"),
    [
        ("cross-entropy (nats)", "loss saved (nats)"),
        ("squared error, mean over outputs", "loss saved (squared error)"),
        ("log-likelihood (normal of deviation 1, up to a constant; nats)", "loss saved (nats)"),
        ("my_losses:huber", "loss saved (my_losses:huber)"),
        ("nats", "loss saved (nats)"),
        (None, "loss saved"),
    ],
)
def test_a_loss_is_told_in_its_own_unit(unit: str | None, label: str) -> None:
    result = Result(name="reliance.shapley", probe="reliance", value=0.5, unit=unit, definition="d", source="s")
    assert marks.in_unit("loss saved ({unit})", [None, result]) == label


def test_an_axis_of_a_regression_says_no_nats(report: Report) -> None:
    results = tuple(r.model_copy(update={"unit": "squared error"}) if r.unit == "nats" else r for r in report.results)
    fig = FIGURES["reliance"](report.model_copy(update={"results": results}))
    assert fig is not None
    assert fig.axes[0].get_xlabel() == "loss saved (squared error)"

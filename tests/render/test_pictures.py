"""Every probe has a picture: drawn from what the probe declares, within its canvas, the same bytes twice."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from sample_pictures import every_probe
from sample_reports import HOSTILE, LONG, make_report, nothing_measured

from collapsekit import registry
from collapsekit.errors import ConfigError
from collapsekit.measures import Panel, measures_of
from collapsekit.measures.catalogue import heading_of
from collapsekit.render.figures import style
from collapsekit.render.figures.diagnosis import FIGURES, draw, inline_svg, pictures_of, state
from collapsekit.render.figures.plots import plots_of
from collapsekit.report.diagnosis import Curve, Result

TWELVE = tuple(f"{name}{i}" for i, name in enumerate(2 * LONG))
NAMES = {"two": ("image", "audio"), "six-long": LONG, "six-hostile": HOSTILE, "twelve-long": TWELVE}
SLACK = 1.0 / 72  # inches by which a letter may lean over the edge


# Measures that no panel draws, by why not: each is a number that stands in a table, beside what is drawn of it.
UNDRAWN = {
    "it is a number of the whole model or of a modality, in the table of the probe": "reliance.full_metric "
    "reliance.full_loss reliance.empty_metric reliance.empty_loss reliance.seed_noise utilisation.joint_gain "
    "utilisation.prior_loss utilisation.strength utilisation.reference_trained utilisation.reference_independent "
    "gradient_rank.block_norm gradient_rank.layer_norm polysemanticity.drive_entropy polysemanticity.check spectrum.spread "
    "polysemanticity.cross_modal_fraction collision.pair_share "
    "entanglement.conjugates entanglement.feature_ratio entanglement.expected_ratio entanglement.gamma "
    "entanglement.gradient_sum entanglement.expected_sum pathway.spread pathway.held_loss",
    "it is a step on the way to the credit and due that are drawn, or to the verdict": "utilisation.share utilisation.ratio "
    "utilisation.score utilisation.alone_gain utilisation.alone_metric utilisation.due_at_most utilisation.learned "
    "utilisation.learnable utilisation.costs_now utilisation.costs_if_missing",
    "the same is drawn in the task metric": "missing.patterns_loss.{fill} missing.rates_loss.{fill} prefix_gap.prefix_loss "
    "prefix_gap.baseline_loss growing.prefix_loss",
    "another measure of the same matrix is drawn": "gradient_rank.gradient_numerical_rank "
    "gradient_rank.agop_numerical_rank spectrum.numerical_rank spectrum.stable_rank spectrum.participation_ratio "
    "spectrum.null_effective_rank entanglement.layer_ranks",
    "its values are drawn one by one": "vif.median vif.mean vif.max",
    "the gain beyond it is drawn": "fusion_gain.random_gain fusion_gain.harmonic_mean fusion_gain.random_harmonic_mean",
    "its metrics have units of their own": "reliance.further_metrics reliance.further_metrics_lost",
}


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


def test_a_picture_is_the_same_bytes_twice() -> None:
    report = every_probe(HOSTILE[:3])
    for picture in pictures_of(report):
        one, other = (draw(report, picture.name) for _ in range(2))
        assert one is not None
        assert other is not None
        assert inline_svg(one, "t") == inline_svg(other, "t"), picture.name


def test_every_measure_is_drawn_or_it_is_said_why_not() -> None:
    left = [name for names in UNDRAWN.values() for name in names.split()]
    assert len(set(left)) == len(left)
    every, drawn = [], set()
    for probe in registry_probes():
        every += [m.name for m in measures_of(probe)]
        for panel in (panel for picture in heading_of(probe).pictures for panel in picture.panels):
            drawn |= {*panel.series.values(), *panel.guides}
    assert set(every) - drawn == set(left)


def test_every_panel_draws_what_the_sample_has() -> None:
    report = every_probe(("image", "audio", "text"))
    for probe in registry_probes():
        for panel in (panel for picture in heading_of(probe).pictures for panel in picture.panels):
            if panel.unless:
                continue
            assert plots_of(report, panel), (probe, panel.label, panel.series)


def test_sets_of_modalities_are_named_briefly_and_those_of_many_are_picked() -> None:
    few, many = every_probe(("image", "audio", "text")), every_probe(TWELVE)
    panel = Panel("loss", {"": "reliance.subsets"}, along="modalities given")
    (plot,) = plots_of(few, panel)
    assert plot.rows == ("none", "image", "audio", "text", "all but text", "all but audio", "all but image", "all")
    (plot,) = plots_of(many, panel)
    assert len(plot.rows) == len(set(plot.rows)) == 26
    four = every_probe(("a", "b", "c", "d"))
    (plot,) = plots_of(four, panel)
    assert "a+c" in plot.rows
    wide = every_probe(("a", "b", "c", "d", "e", "f"))
    (plot,) = plots_of(wide, panel)
    assert len(plot.rows) == 14  # of 64 sets, those that hold none, one, all but one, and all


def test_probes_and_figures_are_drawn_by_their_names() -> None:
    report = every_probe(("image", "audio"))
    for probe, figure in (
        ("rank_sweep", "beta_curves"),
        ("spectrum", "spectra"),
        ("polysemanticity", "polysemanticity"),
    ):
        one, other = draw(report, probe), draw(report, figure)
        assert one is not None
        assert other is not None
        assert inline_svg(one, "t") == inline_svg(other, "t")
    for probe in registry_probes():
        assert draw(report, probe) is not None, probe
        assert draw(nothing_measured(), probe) is None, probe
    with pytest.raises(ConfigError, match=r"there is no figure 'rank_swep' \(did you mean 'rank_sweep'"):
        draw(report, "rank_swep")
    with pytest.raises(
        ConfigError, match=r"'shapley': name a probe of the report or one of its figures, '.*'beta_curves'"
    ):
        draw(report, "shapley")
    with pytest.raises(ConfigError, match=r"one of its figures, of which it has none\.$"):
        draw(nothing_measured().model_copy(update={"results": ()}), "shapley")


def registry_probes() -> list[str]:
    registry.load_builtins()
    return [n for n, s in registry.PROBES.items() if s.run.__module__.startswith("collapsekit.probes.")]


@pytest.mark.parametrize("probe", registry_probes())
def test_skipped_results_have_no_picture(probe: str) -> None:
    report = every_probe(("image", "audio"))
    blank = {"value": None, "interval": None, "curve": None, "skipped": "it was not to be had"}
    results = tuple(r.model_copy(update=blank) if r.probe == probe else r for r in report.results)
    skipped = report.model_copy(update={"results": results})
    for picture in pictures_of(skipped):
        own = picture.explains.startswith(f"{probe}.")
        assert (draw(skipped, picture.name) is None) == own, picture.name
        if own:
            assert state(skipped, picture) == ""


def own_results() -> list[Result]:
    """What a plugin may yield that declares nothing: numbers by modality, of pairs, of the whole, and curves."""
    about: dict[str, Any] = {"probe": "../my probe", "definition": "d", "source": "s"}
    found = [Result(name="../my probe.total", value=2.0, unit="{odd", **about)]
    for m, low in (("image", 1.0), ("audio", 4.0)):
        found.append(
            Result(name="../my probe.size", value=low + 1, interval=(low, low + 2), modality=m, unit="m", **about)
        )
        curve = Curve(x=(0.0, 1.0), y=(low, low + 1), x_label="step", y_label="height")
        found.append(Result(name="../my probe.over", curve=curve, modality=m, **about))
    found.append(Result(name="../my probe.pair", value=-0.5, modality="image", versus="audio", **about))
    subsets = Curve(x=("(none)", "image"), y=(0.0, 1.0), x_label="subset", y_label="worth")
    return [*found, Result(name="../my probe.worth", curve=subsets, **about)]


def test_a_probe_that_declares_nothing_is_drawn_by_what_it_yields() -> None:
    whole = make_report()
    report = whole.model_copy(update={"results": (*whole.results, *own_results())})
    picture = pictures_of(report)[-1]
    assert picture.name == "my_probe"
    assert state(report, picture) == "Largest for audio: 5 [4, 6]."
    for wide in (True, False):
        figure = draw(report, "../my probe", wide)
        assert figure is not None
        assert [ax.get_title("left") for ax in figure.axes if ax.axison] == ["size", "over", "pair", "worth", ""]
        assert outside(figure) == []
    bars, lines, *_ = figure.axes
    assert [p.get_width() for p in bars.containers[0]] == [2.0, 5.0]
    assert [list(line.get_ydata()) for line in lines.get_lines()] == [[1.0, 2.0], [4.0, 5.0]]


def test_two_probes_never_write_one_file() -> None:
    whole = make_report()
    others = [
        Result(name=f"{p}.n", probe=p, value=1.0, definition="d", source="s") for p in ("my-vif", "my vif", "vif")
    ]
    report = whole.model_copy(update={"results": (*whole.results, *others)})
    names = [p.name for p in pictures_of(report)]
    assert len(set(names)) == len(names)
    assert {"my_vif", "my_vif_2", "vif"} <= set(names)


def test_values_of_a_matrix_are_the_report_s() -> None:
    report = every_probe(("image", "audio"))
    figure = draw(report, "similarity")
    assert figure is not None
    ax = figure.axes[0]
    shown = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in ax.texts}
    found = {(r.modality, r.versus): f"{r.value:.2f}" for r in report.named("similarity.cka")}
    rows, columns = ("image", "audio"), ("image", "audio", None)
    assert shown == {(rows.index(a), columns.index(b)): text for (a, b), text in found.items()}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["image", "audio", "fused"]
    signs = draw(report, "fusion_gain")
    assert signs is not None
    colours = [p.get_facecolor()[:3] for p in signs.axes[0].patches]
    assert len(set(colours)) == 2


def test_the_drive_of_neurons_is_not_added_up() -> None:
    """Each modality's shares are sorted by themselves: one place along the axis is another neuron for each."""
    figure = draw(every_probe(("image", "audio")), "neuron_drive")
    assert figure is not None
    lines = [list(line.get_ydata()) for line in figure.axes[0].get_lines()]
    for name, ys in zip(("image", "audio"), lines, strict=True):
        result = every_probe(("image", "audio")).find("polysemanticity.neurons", name)
        assert result is not None
        assert result.curve is not None
        assert ys == sorted(result.curve.y, reverse=True)


def test_lines_of_twelve_modalities_all_look_different() -> None:
    figure = draw(every_probe(TWELVE), "noise")
    assert figure is not None
    lines = figure.axes[0].get_lines()
    looks = {(x.get_color(), x.get_marker(), str(x.get_linestyle()), str(x.get_markerfacecolor())) for x in lines}
    assert len(looks) == len(lines) == 12

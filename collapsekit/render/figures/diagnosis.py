"""One function a figure: ``Report`` in, Matplotlib ``Figure`` out, or None where the report lacks the results.

Nothing here touches pyplot or a display. ``FIGURES`` lists them all; :func:`save` writes them for a paper, and
:func:`inline_svg` turns one into part of a page.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.files import write_atomic
from collapsekit.render.figures import marks, style
from collapsekit.render.figures.style import DASHES, INK, MUTED, PAPER, inline_svg, panels, short_labels, theme
from collapsekit.render.numbers import fmt
from collapsekit.report.diagnosis import Curve, Report, Result
from collapsekit.report.names import cleaned, modality_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "FIGURES", "inline_svg", "save"]

Draw = Callable[..., "Figure | None"]
_MOST_MODALITIES = 64
_DOTS: dict[str, Any] = {"linestyle": (0, (1, 2)), "linewidth": 0.9}


def spectra(report: Report, *, wide: bool = True) -> Figure | None:
    """Normalised eigenvalue spectra, one panel a modality: before fusion, and the fused representation."""
    before = _curves(report, "spectrum.eigenvalues")
    after = next((r.curve for r in report.named("spectrum.eigenvalues") if r.modality is None and r.curve), None)
    if not before and after is None:
        return None
    fig, axes = panels(max(1, len(before)), wide=wide)
    names = short_labels(modality_names(report), 22 if len(before) > 2 else 34)
    for ax, modality in zip(axes, before or [None], strict=True):
        if modality is not None:
            ax.set_title(names[modality])
            key = "before fusion (in the modality's colour)"
            _spectrum(ax, before[modality].curve, marks.color(report, modality), DASHES[0], key)
        _spectrum(ax, after, INK, DASHES[1], "after fusion")
        ranks = [report.find("spectrum.effective_rank", m) for m in dict.fromkeys((modality, None))]
        texts = [fmt(r.value) for r in ranks if r is not None and r.value is not None]
        # Two calls: lines of one text are placed by the drawing font's widths, not by the page's.
        for y, text in ((0.97, "effective rank"), (0.87, " → ".join(texts))) if texts else ():
            ax.text(0.98, y, text, transform=ax.transAxes, ha="right", va="top", color=MUTED, size=7)
        marks.log_scale(ax)
        spec = ax.get_subplotspec()
        ax.set(xlabel="component", ylabel="share of variance" if spec is None or spec.is_first_col() else "")
        if ax is not axes[0]:
            ax.sharey(axes[0])
    marks.legend(fig)
    return fig


def _spectrum(ax: Axes, curve: Curve | None, color: str, dash: Any, label: str) -> None:
    if curve is not None:
        points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y > 0]  # a zero has no place on a log axis
        ax.plot([p[0] for p in points], [p[1] for p in points], color=color, linestyle=dash, label=label)


def beta_curves(report: Report, *, wide: bool = True) -> Figure | None:
    """Draw ranks, task and CKA of the fused representation as each modality's features are scaled by β."""
    titles = {
        "effective_rank": ("Effective rank", "dimensions"),
        "numerical_rank": ("Numerical rank", "dimensions"),
        "metric": (f"Task: {report.subject.metric}", report.subject.metric),
        "loss": ("Task: loss", marks.in_unit("loss ({unit})", report.named("rank_sweep.loss"))),
        "cka": ("CKA with the swept modality", "CKA"),
    }
    every = {part: _curves(report, f"rank_sweep.{part}", itself=True) for part in titles}
    shown = {part: rows for part, rows in every.items() if rows and not (part == "loss" and every["metric"])}
    if not shown:
        return None
    fig, axes = panels(len(shown), wide=wide, height=1.8)
    names = marks.names(report, fig)
    for ax, (part, rows) in zip(axes, shown.items(), strict=True):
        for modality, result in rows.items():
            marks.line(ax, result, marks.palette_index(report, modality), names[modality])
            guides = {"unimodal_rank": ax.axhline, "critical_beta": ax.axvline} if part == "numerical_rank" else {}
            for name, draw in guides.items():
                guide = report.find(f"rank_sweep.{name}", modality)
                if guide is not None and guide.value is not None:
                    draw(guide.value, color=marks.color(report, modality), **_DOTS)
        ax.set(title=titles[part][0], xlabel="β", ylabel=titles[part][1])
    marks.legend(fig)
    return fig


def vif(report: Report, *, wide: bool = True) -> Figure | None:
    """Variance inflation factors of the fused neurons, the largest first; 5 and 10 are the usual warning lines."""
    curve = next((r.curve for r in report.named("vif.per_feature") if r.curve is not None), None)
    heights = sorted((y for y in curve.y if y > 0), reverse=True) if curve is not None else []
    if not heights:
        return None
    fig, (ax,) = panels(1)
    marks.marked(ax, range(1, len(heights) + 1), heights)
    for limit in (5, 10):
        ax.axhline(limit, color=MUTED, **_DOTS)
        ax.annotate(f" {limit}", (1, limit), xycoords=("axes fraction", "data"), va="center", color=MUTED, size=7)
    marks.log_scale(ax)
    ax.set(xlabel="fused neuron, largest first", ylabel="VIF")
    return fig


def neuron_drive(report: Report, *, wide: bool = True) -> Figure | None:
    """Draw which modality drives each fused neuron: shares of its variation, stacked, neurons sorted."""
    shares = {m: r.curve.y for m, r in _curves(report, "polysemanticity.neurons").items() if r.curve is not None}
    lengths = set(map(len, shares.values()))
    if len(lengths) != 1 or lengths == {0}:
        return None
    fig, (ax,) = panels(1)
    base = [0.0] * lengths.pop()
    edges = [i - 0.5 for i in range(1, len(base) + 2)]
    for modality, ys in shares.items():
        top = [b + y for b, y in zip(base, ys, strict=True)]
        how: dict[str, Any] = {"facecolor": marks.color(report, modality), "label": marks.names(report, fig)[modality]}
        ax.stairs(top, edges, baseline=base, fill=True, edgecolor=PAPER, linewidth=0.3, **how)
        base = top
    ax.margins(x=0)
    ax.grid(visible=False)
    ax.set(ylim=(0, max(1.0, *base)), xlabel="fused neuron, sorted", ylabel="share of variation")
    marks.legend(fig)
    return fig


def polysemanticity(report: Report, *, wide: bool = True) -> Figure | None:
    """Draw how well a neuron gives its modality away (cross-entropy, entropy, ln m), and what drives neurons on average."""
    parts = {"cross-entropy": "cross_entropy", "entropy": "entropy", "uniform (ln m)": "uniform"}
    drive = {m: report.find("polysemanticity.drive", m) for m in modality_names(report)}
    names = short_labels([m for m, r in drive.items() if r is not None and r.value is not None])
    every = {
        "nats": {text: report.find(f"polysemanticity.{part}") for text, part in parts.items()},
        "mean share of neurons' variation": {text: drive[m] for m, text in names.items()},
    }
    values = {
        axis: {k: r for k, r in row.items() if r is not None and r.value is not None} for axis, row in every.items()
    }
    shown = {axis: row for axis, row in values.items() if row}
    if not shown:
        return None
    fig, axes = panels(len(shown), wide=wide, height=1.5)
    for ax, (axis, row) in zip(axes, shown.items(), strict=True):
        marks.bars(ax, list(row), {"": list(row.values())})
        ax.set_xlabel(axis)
    return fig


def _within(draw: Draw) -> Draw:
    """``draw`` with clean names, without what has no place on paper; None where the modalities have none."""

    @theme()
    def drawn(report: Report, *, wide: bool = True) -> Figure | None:
        if len(modality_names(report)) > _MOST_MODALITIES:
            return None
        report = cleaned(report)
        kept = tuple(r for r in report.results if _fits(r))
        return draw(report.model_copy(update={"results": kept}), wide=wide)

    return drawn


def _fits(r: Result) -> bool:
    return marks.fits([] if r.value is None else [r.value], r.interval) and (
        r.curve is None or marks.curve_fits(r.curve)
    )


# Axes, and what stands on each: a series and the result it shows.
_BARS = {
    "reliance": {
        "loss saved ({unit})": {"Shapley": "reliance.shapley", "leave one out": "reliance.leave_one_out"},
        "{metric} gained": {"Shapley": "reliance.shapley_metric", "leave one out": "reliance.leave_one_out_metric"},
    },
    "utilisation": {
        "credit ({unit})": {"this model": "utilisation.credit", "balanced reference": "utilisation.reference_credit"}
    },
    "prefix_gap": {
        "gap ({unit})": {"gap": "prefix_gap.gap"},
        "{metric}": {"prefix": "prefix_gap.prefix_metric", "baseline": "prefix_gap.baseline_metric"},
    },
}
_DRAWS: dict[str, Draw] = {name: functools.partial(marks.bar_figure, parts=parts) for name, parts in _BARS.items()}
_DRAWS |= {d.__name__: d for d in (spectra, beta_curves, vif, neuron_drive, polysemanticity)}
FIGURES: dict[str, Draw] = {name: _within(draw) for name, draw in _DRAWS.items()}
"""Name to ``draw(report, *, wide=True)``; ``wide=False`` stacks panels in one column of a paper, or on a phone."""

CAPTIONS: dict[str, tuple[str, str]] = {
    "reliance": ("What each modality earns", "reliance.shapley"),
    "utilisation": ("Credit beside a balanced reference", "utilisation.credit"),
    "prefix_gap": ("Prefix gap", "prefix_gap.gap"),
    "spectra": ("Eigenvalue spectra before and after fusion", "spectrum.eigenvalues"),
    "beta_curves": ("Rank, task and CKA as a modality is upweighted", "rank_sweep.numerical_rank"),
    "vif": ("Redundancy of the fused neurons", "vif.per_feature"),
    "neuron_drive": ("Which modality drives each neuron", "polysemanticity.neurons"),
    "polysemanticity": ("Neurons shared between modalities", "polysemanticity.cross_entropy"),
}
"""Name to its title and the result whose definition and source explain it."""


def save(report: Report, directory: str | Path, formats: Sequence[str] = ("svg", "pdf", "png")) -> list[Path]:
    """Write every figure the report has results for.

    Widths fit a paper (3.4 in, or 6.8 in where there are several panels), text is 8 pt, PNG has 300 dpi, PDF embeds Type 42
    fonts. The same report gives the same bytes.

    Args:
        report: Of a diagnosis.
        directory: Where the files go.
        formats: Of svg, pdf and png.

    Returns:
        The paths, in ``FIGURES`` order.

    Raises:
        ConfigError: For a format not known, and where a file cannot be written: those before it are then whole.
    """
    creator = {"Creator": "collapsekit"}
    known: dict[str, dict[str, Any]] = {
        "svg": {**creator, "Date": None},
        "pdf": {**creator, "CreationDate": None, "Producer": None},
        "png": {"Software": "collapsekit"},
    }
    for wrong in [f for f in formats if f not in known]:
        raise ConfigError(f"figure format {wrong!r} is not known: use svg, pdf or png{did_you_mean(wrong, known)}.")
    written = []
    drawn = ((name, draw(report)) for name, draw in FIGURES.items())
    for name, fig in ((name, fig) for name, fig in drawn if fig is not None):
        for kind in formats:
            sink = io.BytesIO()
            with theme():
                style.settle(fig)
                ground = "white" if kind == "png" else "none"
                fig.savefig(sink, format=kind, metadata={"Title": CAPTIONS[name][0], **known[kind]}, facecolor=ground)
            written.append(write_atomic(Path(directory) / f"{name}.{kind}", sink.getvalue()))
    return written


def _curves(report: Report, name: str, *, itself: bool = False) -> dict[str, Result]:
    """Results of that name with a curve by modality, in the subject's order; with ``itself``, about no other one."""
    results = [r for r in report.named(name) if r.curve is not None and (not itself or r.versus in (None, r.modality))]
    found = {r.modality: r for r in results}
    return {m: found[m] for m in modality_names(report) if m in found}

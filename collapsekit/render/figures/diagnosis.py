"""One function a figure: ``Report`` in, Matplotlib ``Figure`` out, or None where the report lacks the results.

Nothing here touches pyplot or a display. ``FIGURES`` lists them all; :func:`save` writes them for a paper, and
:func:`inline_svg` turns one into part of a page.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.files import write_atomic
from collapsekit.render.figures.marks import bar_figure, bars, legend, line, line_legend, palette_index
from collapsekit.render.figures.style import (
    DASHES,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    SERIES,
    inline_svg,
    log_axis,
    panels,
    settle,
    short_labels,
    theme,
)
from collapsekit.render.numbers import fmt
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import cleaned, modality_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "FIGURES", "inline_svg", "save"]

Draw = Callable[..., "Figure | None"]
_MOST_MODALITIES = 64
_LARGEST = 1e100  # axes reckon with sums and differences of what is on them


def spectra(report: Report, *, wide: bool = True) -> Figure | None:
    """Normalised eigenvalue spectra, one panel a modality: before fusion, and the fused representation."""
    before = _by_modality(report, "spectrum.eigenvalues")
    after = next((r for r in report.named("spectrum.eigenvalues") if r.modality is None and r.curve), None)
    if not before and after is None:
        return None
    with theme():
        fig, axes = panels(max(1, len(before)), wide=wide)
        names = short_labels(modality_names(report), 22 if len(before) > 2 else 34)
        shown: list[tuple[str | None, Result | None]] = [*before.items()] or [(None, None)]
        for ax, (modality, result) in zip(axes, shown, strict=True):
            if modality is not None:
                ax.set_title(names[modality])
                _spectrum(ax, result, SERIES[palette_index(report, modality)], DASHES[0])
            _spectrum(ax, after, INK, DASHES[1])
            _effective_rank(ax, report, modality)
            ax.set_yscale("log")
            log_axis(ax.yaxis)
            ax.set_xlabel("component")
            if _first_in_row(ax):
                ax.set_ylabel("share of variance")
            if ax is not axes[0]:
                ax.sharey(axes[0])
        keys = [("before fusion (in the modality's colour)", MUTED, DASHES[0])] if before else []
        keys += [("after fusion", INK, DASHES[1])] if after is not None else []
        line_legend(fig, keys)
    return fig


def _spectrum(ax: Axes, result: Result | None, color: str, dash: Any) -> None:
    if result is None or result.curve is None:
        return
    curve = result.curve
    points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y > 0]  # a zero has no place on a log axis
    ax.plot([p[0] for p in points], [p[1] for p in points], color=color, linestyle=dash)


def _effective_rank(ax: Axes, report: Report, modality: str | None) -> None:
    ranks = [report.find("spectrum.effective_rank", m) for m in dict.fromkeys((modality, None))]
    texts = [fmt(r.value) for r in ranks if r is not None and r.value is not None]
    if texts:
        # Two calls: lines of one text are placed by the drawing font's widths, not by the page's.
        for y, text in ((0.97, "effective rank"), (0.87, " → ".join(texts))):
            ax.text(0.98, y, text, transform=ax.transAxes, ha="right", va="top", color=MUTED, size=7)


def _first_in_row(ax: Axes) -> bool:
    spec = ax.get_subplotspec()
    return spec is None or spec.is_first_col()


def beta_curves(report: Report, *, wide: bool = True) -> Figure | None:
    """Draw ranks, task and CKA of the fused representation as each modality's features are scaled by β."""
    titles = {
        "effective_rank": ("Effective rank", "dimensions"),
        "numerical_rank": ("Numerical rank", "dimensions"),
        "metric": (f"Task: {report.subject.metric}", report.subject.metric),
        "loss": ("Task: loss", "loss (nats)"),
        "cka": ("CKA with the swept modality", "CKA"),
    }
    found = {part: _by_modality(report, f"rank_sweep.{part}", itself=True) for part in titles}
    shown = [part for part in titles if found[part]]
    if "metric" in shown and "loss" in shown:
        shown.remove("loss")
    if not shown:
        return None
    with theme():
        fig, axes = panels(len(shown), wide=wide, height=1.8)
        for ax, part in zip(axes, shown, strict=True):
            for modality, result in found[part].items():
                line(ax, result, palette_index(report, modality))
                if part == "numerical_rank":
                    _guide(ax.axhline, report.find("rank_sweep.unimodal_rank", modality), report)
                    _guide(ax.axvline, report.find("rank_sweep.critical_beta", modality), report)
            ax.set_title(titles[part][0])
            ax.set_xlabel("β")
            ax.set_ylabel(titles[part][1])
        legend(fig, report, dict.fromkeys(m for part in shown for m in found[part]))
    return fig


def _guide(draw: Callable[..., Any], result: Result | None, report: Report) -> None:
    if result is not None and result.value is not None:
        color = SERIES[palette_index(report, result.modality)]
        draw(result.value, color=color, linestyle=(0, (1, 2)), linewidth=0.9)


def vif(report: Report, *, wide: bool = True) -> Figure | None:
    """Variance inflation factors of the fused neurons, the largest first; 5 and 10 are the usual warning lines."""
    curve = next((r.curve for r in report.named("vif.per_feature") if r.curve is not None), None)
    heights = sorted((y for y in curve.y if y > 0), reverse=True) if curve is not None else []
    if not heights:
        return None
    with theme():
        fig, (ax,) = panels(1)
        ax.plot(range(1, len(heights) + 1), heights, color=SERIES[0], marker=MARKERS[0] if len(heights) < 40 else "")
        for limit in (5, 10):
            ax.axhline(limit, color=MUTED, linestyle=(0, (1, 2)), linewidth=0.9)
            ax.annotate(f" {limit}", (1, limit), xycoords=("axes fraction", "data"), va="center", color=MUTED, size=7)
        ax.set_yscale("log")
        log_axis(ax.yaxis)
        ax.set_xlabel("fused neuron, largest first")
        ax.set_ylabel("VIF")
    return fig


def neuron_drive(report: Report, *, wide: bool = True) -> Figure | None:
    """Draw which modality drives each fused neuron: shares of its variation, stacked, neurons sorted."""
    found = {m: r for m, r in _by_modality(report, "polysemanticity.neurons").items() if r.curve is not None}
    lengths = {len(r.curve.y) for r in found.values() if r.curve is not None}
    if len(lengths) != 1 or lengths == {0}:
        return None
    with theme():
        fig, (ax,) = panels(1)
        base = [0.0] * lengths.pop()
        for modality, result in found.items():
            ys = result.curve.y if result.curve is not None else ()
            top = [b + y for b, y in zip(base, ys, strict=True)]
            edges = [i - 0.5 for i in range(1, len(top) + 2)]
            color = SERIES[palette_index(report, modality)]
            ax.stairs(top, edges, baseline=base, fill=True, facecolor=color, edgecolor=PAPER, linewidth=0.3)
            base = top
        ax.set_ylim(0, max(1.0, *base))
        ax.margins(x=0)
        ax.grid(visible=False)
        ax.set_xlabel("fused neuron, sorted")
        ax.set_ylabel("share of variation")
        legend(fig, report, found, patches=True)
    return fig


def polysemanticity(report: Report, *, wide: bool = True) -> Figure | None:
    """Draw how well a neuron gives its modality away (cross-entropy, entropy, ln m), and what drives neurons on average."""
    parts = {"cross_entropy": "cross-entropy", "entropy": "entropy", "uniform": "uniform (ln m)"}
    found = {text: report.find(f"polysemanticity.{part}") for part, text in parts.items()}
    had = {text: r for text, r in found.items() if r is not None and r.value is not None}
    drive = _values(report, "polysemanticity.drive")
    if not had and not drive:
        return None
    with theme():
        fig, axes = panels(bool(had) + bool(drive), wide=wide, height=1.5)
        if had:
            bars(axes[0], list(had), {"": list(had.values())})
            axes[0].set_xlabel("nats")
        if drive:
            names = short_labels(list(drive))
            bars(axes[-1], [names[m] for m in drive], {"": list(drive.values())})
            axes[-1].set_xlabel("mean share of neurons' variation")
    return fig


def _within(draw: Draw) -> Draw:
    """``draw`` with clean names, without what has no place on paper; None where the modalities have none."""

    def drawn(report: Report, *, wide: bool = True) -> Figure | None:
        if len(modality_names(report)) > _MOST_MODALITIES:
            return None
        report = cleaned(report)
        kept = tuple(r for r in report.results if all(abs(v) <= _LARGEST for v in _numbers(r)))
        return draw(report.model_copy(update={"results": kept}), wide=wide)

    return drawn


def _numbers(result: Result) -> Iterator[float]:
    yield from () if result.value is None else (result.value,)
    yield from result.interval or ()
    if result.curve is not None:
        yield from (x for x in result.curve.x if not isinstance(x, str))
        for part in (result.curve.y, result.curve.lower, result.curve.upper):
            yield from part or ()


# Axes, and what stands on each: a series and the result it shows.
_BARS = {
    "reliance": {
        "loss saved (nats)": {"Shapley": "reliance.shapley", "leave one out": "reliance.leave_one_out"},
        "{metric} gained": {"Shapley": "reliance.shapley_metric", "leave one out": "reliance.leave_one_out_metric"},
    },
    "utilisation": {
        "credit (nats)": {"this model": "utilisation.credit", "balanced reference": "utilisation.reference_credit"}
    },
    "prefix_gap": {
        "gap (nats)": {"gap": "prefix_gap.gap"},
        "{metric}": {"prefix": "prefix_gap.prefix_metric", "baseline": "prefix_gap.baseline_metric"},
    },
}
_DRAWS: dict[str, Draw] = {name: functools.partial(bar_figure, parts=parts) for name, parts in _BARS.items()}
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
    known = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "Producer": None}, "png": {}}
    for wrong in [f for f in formats if f not in known]:
        raise ConfigError(f"figure format {wrong!r} is not known: use svg, pdf or png{did_you_mean(wrong, known)}.")
    written = []
    for name, draw in FIGURES.items():
        fig = draw(report)
        if fig is None:
            continue
        for kind in formats:
            fixed: dict[str, Any] = {"Title": CAPTIONS[name][0], "Creator": "collapsekit", **known[kind]}
            if kind == "png":
                fixed = {"Title": CAPTIONS[name][0], "Software": "collapsekit"}
            sink = io.BytesIO()
            with theme():
                settle(fig)
                fig.savefig(sink, format=kind, metadata=fixed, facecolor="white" if kind == "png" else "none")
            written.append(write_atomic(Path(directory) / f"{name}.{kind}", sink.getvalue()))
    return written


def _by_modality(report: Report, name: str, *, itself: bool = False) -> dict[str, Result]:
    """Curves of that name by modality, in the subject's order; with ``itself``, those about itself or nothing else."""
    found = {
        r.modality: r
        for r in report.named(name)
        if r.modality is not None and r.curve is not None and (not itself or r.versus in (None, r.modality))
    }
    return {m: found[m] for m in modality_names(report) if m in found}


def _values(report: Report, name: str) -> dict[str, Result]:
    had = {r.modality: r for r in report.named(name) if r.modality is not None and r.value is not None}
    return {m: had[m] for m in modality_names(report) if m in had}

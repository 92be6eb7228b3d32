"""Which numbers the default table shows, and of which it is agreed which way is better."""

from __future__ import annotations

from fnmatch import fnmatchcase

from collapsekit.report.comparison import Better

# (name, the better way, why). Of what is not here none is best: a gain in rank is no gain in the task, a model that ignores
# a modality is proof against noise in it, and credit that one modality gains another loses.
DIRECTIONS: tuple[tuple[str, Better, str], ...] = (
    ("score", "lower", "0 is fully used, 1 is fully ignored"),
    ("costs_now", "lower", "it is what the model loses of the task metric today"),
    ("costs_if_missing", "lower", "it is what the model loses of the task metric when another modality is missing"),
    ("reliance.full_metric", "higher", "task metrics are written so that higher is better"),
    ("reliance.full_loss", "lower", "it is the task loss"),
    ("utilisation.score", "lower", "0 is fully used, 1 is fully ignored"),
    ("utilisation.costs_now", "lower", "it is what the model loses of the task metric today"),
    (
        "utilisation.costs_if_missing",
        "lower",
        "it is what the model loses of the task metric without the other modality",
    ),
    ("utilisation.alone_metric", "higher", "task metrics are written so that higher is better"),
    ("utilisation.alone_gain", "higher", "it is task loss gained by the modality alone"),
    ("prefix_gap.prefix_metric", "higher", "task metrics are written so that higher is better"),
    ("prefix_gap.prefix_loss", "lower", "it is the task loss"),
    ("vif.*", "lower", "1 is no redundancy between fused neurons"),
)

# Beside verdicts: names of results, and whether only the number of the fused representation, or of the whole model.
HEADLINES: dict[str, bool] = {
    "reliance.full_metric": False,
    "reliance.full_loss": False,
    "reliance.shapley": False,
    "prefix_gap.gap": False,
    "spectrum.effective_rank": True,
    "spectrum.numerical_rank": True,
    "vif.median": True,
    "vif.mean": True,
    "polysemanticity.cross_modal_fraction": True,
    "polysemanticity.cross_entropy": True,
    "collision.cross_modal": True,
    "gradient_rank.gradient_effective_rank": True,
    "gradient_rank.agop_effective_rank": True,
}


def direction(name: str) -> tuple[Better | None, str | None]:
    """Which way is better in the numbers of that name, and why; None where that is not agreed."""
    return next(((better, why) for pattern, better, why in DIRECTIONS if fnmatchcase(name, pattern)), (None, None))

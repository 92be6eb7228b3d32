"""Figures 4 and 5 of Kim et al. 2025: R3D at shares of exchanged channels of 0 to 30 %, beside random channels.

Nothing is chosen on the test split: the epoch is that of the best validation score, and sizes and training were set by the
network without any exchange.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from collapsekit.errors import ConfigError
from collapsekit.io.files import append_text, write_atomic
from collapsekit.reproduce.anticipation.data import (
    LAYOUTS,
    LOADERS,
    UTD_CLASSES,
    UTD_TOKENS,
    UTKINECT_CLASSES,
    UTKINECT_TOKENS,
    UTKINECT_WINDOW,
    ActionSequences,
    Split,
)
from collapsekit.reproduce.anticipation.scores import scores_of_order, scores_of_r3d
from collapsekit.reproduce.anticipation.training import R3DTraining, TrainedR3D, train_r3d
from collapsekit.reproduce.models.r3d import Choice, ExchangedShare, R3DSize
from collapsekit.stats.inference.quantiles import student

PROPORTIONS = (0.0, 0.1, 0.2, 0.3)
SEEDS = tuple(range(6))
DATASETS = tuple(LOADERS)
ORDER_ONLY = "order only"
CHOICES: dict[str, Choice] = {"none": "weakest", "weakest": "weakest", "strongest": "strongest", "random": "random"}
SIZES = {
    "utd_mhad": R3DSize(UTD_CLASSES, queries=1, steps=UTD_TOKENS),
    "utkinect": R3DSize(UTKINECT_CLASSES, queries=UTKINECT_WINDOW, steps=UTKINECT_TOKENS),
}
TRAINING = {"utd_mhad": R3DTraining(), "utkinect": R3DTraining(epochs=60, batch=16)}
SHARES = ("current", "next", "future", "recognised")  # scores in [0, 1], and so are their intervals
QUICK_EPOCHS = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class R3DOutcome:
    """One trained network on the test split, or what the order of actions alone is worth."""

    dataset: str
    proportion: float
    channels: str  # none, weakest, random, strongest, or order only
    seed: int
    plan: str  # of sizes and training: outcomes of another plan are not of this figure
    epoch: int
    seconds: float
    scores: dict[str, float]


@dataclass(frozen=True)
class R3DMean:
    """A score over seeds: its mean and 95 % interval (Student's t), and the same of the paired difference to a control."""

    dataset: str
    proportion: float
    channels: str
    name: str
    seeds: int
    mean: float
    interval: tuple[float, float] | None  # None for fewer than two seeds
    gain: float | None = None  # over no exchange, by seed
    gain_interval: tuple[float, float] | None = None
    over_random: float | None = None  # over random channels at the same proportion, by seed
    over_random_interval: tuple[float, float] | None = None


def figure5(
    proportions: Sequence[float] = PROPORTIONS,
    seeds: Sequence[int] = SEEDS,
    *,
    datasets: Sequence[str] = DATASETS,
    quick: bool = False,
    path: Path | None = None,
    say: Say = lambda _: None,
) -> list[R3DOutcome]:
    """Train R3D at each share of exchanged channels, the weakest and random ones, and score it on the test split.

    At the largest share the strongest channels of each clip are exchanged too: like the weakest, they are others in every
    clip.

    Args:
        proportions: Shares of exchanged channels; 0 is the network without the token fuser.
        seeds: Of weights, order of examples, random channels and noise.
        datasets: Of ``utd_mhad`` and ``utkinect``; their files lie in the folder that ``COLLAPSEKIT_DATA`` names.
        quick: Whether to train for a few epochs only, for a test of the whole way: the numbers mean nothing. Of
            proportions the first and the last are run, of seeds the first.
        path: A file to which every outcome is added as a line, and in which those of the same plan are found again.
        say: Called with a line for each outcome.

    Returns:
        The outcomes of every dataset, in order; the first of each is what the order of actions alone is worth.

    Raises:
        ConfigError: Where a data file is not there.
        ConfigError: Where ``path`` cannot be written or read.
    """
    if quick:
        proportions, seeds = sorted({proportions[0], proportions[-1]}), seeds[:1]
    known = read_outcomes(path) if path is not None and path.is_file() else {}
    out = []
    for dataset in datasets:
        splits = LOADERS[dataset]()
        for proportion, channels, seed in runs(proportions, seeds):
            key = (dataset, proportion, channels, seed, plan_of(dataset, quick=quick))
            outcome = known.get(key)
            if outcome is None:
                outcome = _measured(splits, *key, quick=quick)
                if path is not None:
                    append_text(path, json.dumps(asdict(outcome), allow_nan=False) + "\n")
            say(_line(outcome))
            out.append(outcome)
    return out


def _line(outcome: R3DOutcome) -> str:
    name = "next@0.3" if "next@0.3" in outcome.scores else "current@0.3"
    value = f"{name} {outcome.scores[name]:.3f}" if name in outcome.scores else "durations"
    return f"{outcome.dataset} {outcome.proportion:.0%} {outcome.channels}, seed {outcome.seed}: {value}"


def runs(proportions: Sequence[float], seeds: Sequence[int]) -> list[tuple[float, str, int]]:
    """List proportion, channels and seed of every network, seed by seed, so that a part of a run holds whole seeds."""
    out: list[tuple[float, str, int]] = [(0.0, ORDER_ONLY, 0)]
    for seed in seeds:
        for proportion in proportions:
            kinds = ["weakest", "random"] if proportion else ["none"]
            kinds += ["strongest"] if proportion and proportion == max(proportions) else []
            out += [(proportion, channels, seed) for channels in kinds]
    return out


def _measured(
    splits: Mapping[Split, ActionSequences],
    dataset: str,
    proportion: float,
    channels: str,
    seed: int,
    plan: str,
    *,
    quick: bool,
) -> R3DOutcome:
    size = SIZES[dataset]
    if channels == ORDER_ONLY:
        scores = scores_of_order(splits["train"], splits["test"], size.queries)
        return R3DOutcome(dataset, proportion, channels, seed, plan, 0, 0.0, scores)
    begun = time.process_time()
    kept = train_one(splits, dataset, ExchangedShare(proportion, CHOICES[channels], seed=seed), seed, quick=quick)
    scores = scores_of_r3d(kept.model, splits["train"], splits["test"], seed)
    seconds = round(time.process_time() - begun, 1)
    return R3DOutcome(dataset, proportion, channels, seed, plan, kept.epoch, seconds, scores)


def train_one(
    splits: Mapping[Split, ActionSequences],
    dataset: str,
    share: ExchangedShare,
    seed: int,
    *,
    quick: bool = False,
) -> TrainedR3D:
    """Train one network of the figure.

    Args:
        splits: The dataset's sequences.
        dataset: Its name, by which size and training are chosen.
        share: Which channels are exchanged.
        seed: Of weights and training.
        quick: Whether to train for a few epochs only.

    Returns:
        The network of the best epoch on the validation split.
    """
    return train_r3d(splits, SIZES[dataset], share, training_of(dataset, quick=quick), seed)


def training_of(dataset: str, *, quick: bool) -> R3DTraining:
    """Choose a dataset's training."""
    return replace(TRAINING[dataset], epochs=QUICK_EPOCHS) if quick else TRAINING[dataset]


def plan_of(dataset: str, *, quick: bool) -> str:
    """Name a dataset's layout, size and training by twelve digits, so that outcomes of others are told apart."""
    parts = [LAYOUTS[dataset], asdict(SIZES[dataset]), asdict(training_of(dataset, quick=quick))]
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_outcomes(path: Path) -> dict[tuple[str, float, str, int, str], R3DOutcome]:
    """Read the outcomes that a file holds, by dataset, proportion, channels, seed and plan; a last line that was cut off
    is removed from the file. Raises ConfigError where a line is none."""
    out = {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_atomic(path, whole)
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            outcome = R3DOutcome(**json.loads(line))
        except (TypeError, ValueError):
            raise ConfigError(
                f"{path}: line {number} was expected to be an outcome of this study and is not: name another file, or "
                "delete it."
            ) from None
        out[outcome.dataset, outcome.proportion, outcome.channels, outcome.seed, outcome.plan] = outcome
    return out


def summarise_r3d(outcomes: Sequence[R3DOutcome]) -> list[R3DMean]:
    """Average every score over seeds, with intervals, and pair each seed with its controls."""
    by_run: dict[tuple[str, float, str], dict[int, R3DOutcome]] = {}
    for o in outcomes:
        by_run.setdefault((o.dataset, o.proportion, o.channels), {})[o.seed] = o
    out = []
    for (dataset, proportion, channels), found in by_run.items():
        plain = {} if channels in ("none", ORDER_ONLY) else by_run.get((dataset, 0.0, "none"), {})
        drawn = by_run.get((dataset, proportion, "random"), {}) if channels == "weakest" else {}
        for name in next(iter(found.values())).scores:
            mean, interval = mean_interval([o.scores[name] for o in found.values()])
            if interval is not None and name.startswith(SHARES):
                interval = max(0.0, interval[0]), min(1.0, interval[1])
            assert mean is not None
            gain, over = _difference(found, plain, name), _difference(found, drawn, name)
            out.append(R3DMean(dataset, proportion, channels, name, len(found), mean, interval, *gain, *over))
    return out


def _difference(
    outcomes: Mapping[int, R3DOutcome], control: Mapping[int, R3DOutcome], name: str
) -> tuple[float | None, tuple[float, float] | None]:
    return mean_interval([outcomes[s].scores[name] - control[s].scores[name] for s in outcomes if s in control])


def mean_interval(values: Sequence[float]) -> tuple[float | None, tuple[float, float] | None]:
    """Compute the mean of ``values``, and its 95 % interval by Student's t; None where there are too few."""
    n = len(values)
    if not n:
        return None, None
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    half = student(0.975, n - 1) * math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return mean, (mean - half, mean + half)

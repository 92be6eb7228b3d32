"""How the models are trained: data, inputs, architecture and the habits of training that people have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SEEDS = range(5)


@dataclass(frozen=True)
class Setting:
    """One way to train a model, of which each seed makes one.

    ``raw``: inputs in the units of the file; else standardised by the training split. ``rates``: learning rates of encoders
    that have their own. ``patience``: epochs without a better validation loss before training ends, and the best weights are
    kept; None: the last weights are. ``noise``: standard deviation added to training inputs, relative to theirs.
    """

    name: str
    data: str
    modalities: tuple[str, ...]
    fusion: str
    train: int | None = None  # examples to train on; None: all of the file
    raw: bool = False
    width: int = 32
    hidden: int = 64
    rate: float = 1e-3
    rates: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    dropout: float = 0.0
    epochs: int = 40
    patience: int | None = 6
    noise: float = 0.0
    counted: bool = True  # False: a test of the format, too few examples to be evidence


_VIEWS = ("fac", "fou", "kar", "mor", "pix", "zer")
_SENSORS = ("depth", "skeleton", "accel", "gyro")
_PEPTIDE = ("atoms", "pairs", "whole", "one_hot")

SETTINGS = (
    # Two views in the units of the file, a short training that ends when validation says so.
    Setting("mfeat2-concat", "mfeat", ("pix", "fou"), "concat", raw=True, rate=3e-3, patience=3),
    Setting("mfeat3-sum", "mfeat", ("fou", "zer", "kar"), "sum", weight_decay=1e-2, epochs=30),
    Setting(
        "mfeat4-gated", "mfeat", ("pix", "fou", "zer", "kar"), "gated", raw=True, width=16, patience=None, epochs=25
    ),
    Setting("mfeat6-attention", "mfeat", _VIEWS, "attention", noise=0.2, weight_decay=1e-2),
    Setting("mfeat2-late", "mfeat", ("mor", "kar"), "late", width=64),
    Setting("mfeat6-late", "mfeat", _VIEWS, "late", raw=True, rate=1e-3, patience=None, epochs=30),
    # The image's encoder learns slowly, as one that was trained before does.
    Setting("avmnist-concat", "avmnist1500", ("image", "audio"), "concat", rates={"image": 1e-4}, epochs=25),
    Setting(
        "avmnist-gated", "avmnist3000", ("image", "audio"), "gated", train=1500, dropout=0.3, epochs=15, patience=3
    ),
    # Who speaks is known too, and says nothing of the digit.
    Setting("avmnist-speaker", "avmnist3000", ("image", "audio", "speaker"), "attention", train=1500, epochs=15),
    Setting(
        "avmnist-speaker-sum", "avmnist3000", ("image", "audio", "speaker"), "sum", train=1500, epochs=12, noise=0.1
    ),
    Setting("avmnist-late", "avmnist3000", ("image", "audio"), "late", train=1500, epochs=12, weight_decay=1e-2),
    Setting("utd-concat", "utd_mhad", _SENSORS, "concat", noise=0.2, dropout=0.2, epochs=40),
    Setting("utd-attention", "utd_mhad", _SENSORS, "attention", raw=True, patience=5),
    Setting("utd-late", "utd_mhad", ("skeleton", "accel", "gyro"), "late", rate=2e-3),
    Setting("har-sum", "uci_har_subset", ("total_acc", "body_gyro"), "sum", raw=True, epochs=25),
    Setting(
        "har-gated", "uci_har_subset", ("total_acc", "body_gyro"), "gated", noise=0.3, weight_decay=1e-2, epochs=25
    ),
    Setting("peptide-concat", "peptides", _PEPTIDE, "concat", raw=True, train=2500, epochs=20),
    Setting("peptide-sum", "peptides", _PEPTIDE, "sum", train=2500, dropout=0.1, weight_decay=1e-2, epochs=20),
    Setting("peptide-attention", "peptides", ("atoms", "whole", "one_hot"), "attention", train=2500, epochs=20),
    Setting(
        "mimic-concat",
        "mimic4_demo",
        ("demographics", "labs", "diagnoses", "procedures", "medications"),
        "concat",
        weight_decay=1e-2,
        counted=False,
    ),
)

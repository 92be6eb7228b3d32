"""What was recorded, whatever files it lay in: frames in the order of their episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from collapsekit.errors import DataError

EPISODE, FRAME, PHASE = "episode_index", "frame_index", "phase"
FIELDS = (
    EPISODE,
    FRAME,
    "index",
    "task_index",
    "timestamp",
)  # of every recording: about its frames, nothing that is seen


class Camera(Protocol):
    """Pictures of one camera, however they are kept."""

    def picture(self, row: int) -> Tensor:
        """Return the picture of a frame, (c, h, w), 0 to 1 where it was kept in bytes. Raises DataError."""


@dataclass(frozen=True)
class Statistics:
    """What a field's values are like over frames, each of the field's own shape or one that broadcasts to it."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class EpisodeLog:
    """Frames, sorted by episode and by their place in it."""

    origin: str  # what to call it in messages
    numbers: dict[str, Tensor]  # by key, (frames, ...)
    texts: dict[str, list[str]] = field(default_factory=dict)  # by key, of every frame
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)  # "0:40" by name, as the recording itself says

    @property
    def episodes(self) -> Tensor:
        """Which episode each frame is of, int64 (frames,)."""
        return self.numbers[EPISODE]

    def runs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Find where each frame stands in its episode.

        Returns:
            By frame its place, 0 for the first; the number of frames of its episode; and how many frames follow one
            another from it on, itself counted, until the episode ends or a frame is missing. Each int64 (frames,).
        """
        episodes, frames = self.episodes, self.numbers[FRAME]
        count = len(episodes)
        at = torch.arange(count)
        new = torch.ones(count, dtype=torch.bool)
        new[1:] = episodes[1:] != episodes[:-1]
        broken = new.clone()
        broken[1:] |= frames[1:] != frames[:-1] + 1
        starts = new.nonzero()[:, 0]
        sizes = torch.diff(starts, append=torch.tensor([count]))
        place = at - starts.repeat_interleave(sizes)
        cuts = broken.nonzero()[:, 0]
        ends = torch.cat([cuts[1:], torch.tensor([count])])
        left = ends.repeat_interleave(ends - cuts) - at
        return place, sizes.repeat_interleave(sizes), left


def sort_frames(
    numbers: dict[str, Tensor], texts: dict[str, list[str]], origin: str
) -> tuple[dict[str, Tensor], dict[str, list[str]], Tensor]:
    """Sort frames by episode and by their place in it.

    Args:
        numbers: by key, (frames, ...); ``frame_index`` is counted where it is not there.
        texts: by key, of every frame.
        origin: what to call the recording in messages.

    Returns:
        Both sorted, and the order, int64 (frames,).

    Raises:
        DataError: where no field says of which episode a frame is, or one frame is there twice.
    """
    if EPISODE not in numbers or not len(numbers[EPISODE]):
        raise DataError(
            f"{origin} does not say of which episode each frame is: it needs {EPISODE!r}, one whole number a frame."
        )
    episodes = numbers[EPISODE].reshape(-1).long()
    frames = numbers[FRAME].reshape(-1).long() if FRAME in numbers else torch.arange(len(episodes))
    order = frames.argsort(stable=True)
    order = order[episodes[order].argsort(stable=True)]
    episodes, frames = episodes[order], frames[order]
    twice = (episodes[1:] == episodes[:-1]) & (frames[1:] == frames[:-1])
    if bool(twice.any()):
        first = int(twice.nonzero()[0])
        raise DataError(
            f"{origin} holds frame {int(frames[first])} of episode {int(episodes[first])} twice: leave one of them out."
        )
    ordered = {k: v.index_select(0, order) for k, v in numbers.items()}
    rows = order.tolist()
    return (
        {**ordered, EPISODE: episodes, FRAME: frames},
        {k: [v[i] for i in rows] for k, v in texts.items()},
        order,
    )

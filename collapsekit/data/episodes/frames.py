"""Examples made of frames: what is seen in one, and the actions that follow it within its episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from collapsekit.config.schema import EpisodesConfig
from collapsekit.data.episodes.recording import PHASE, EpisodeLog, Statistics
from collapsekit.errors import ConfigError
from collapsekit.io.safe_text import quote

OBSERVATION = "observation."
_LEAST = 1e-8  # added to what is divided by, as LeRobot does
Scale = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ExampleForm:
    """How a frame becomes an example."""

    how: EpisodesConfig
    label: str  # the field of which a frame has its own and those that follow
    scales: Mapping[str, Scale] = field(default_factory=dict)


class Frames(Dataset[dict[str, Any]]):
    """Some frames of a recording as examples by LeRobot's keys."""

    def __init__(self, recording: EpisodeLog, rows: Tensor, place: Tensor, length: Tensor, form: ExampleForm) -> None:
        """``rows``: which frames, (examples,); ``place`` and ``length``: as ``EpisodeLog.runs`` gives them."""
        self.recording, self.form = recording, form
        self.rows, self.place = rows.tolist(), place.tolist()
        self.phase = (place * form.how.phases // length).tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row, recording = self.rows[i], self.recording
        example: dict[str, Any] = {k: v[row] for k, v in recording.texts.items()}
        example |= {k: self._field(k, v.__getitem__, row) for k, v in recording.numbers.items()}
        example |= {k: self._field(k, camera.picture, row) for k, camera in recording.cameras.items()}
        if PHASE not in example:
            example[PHASE] = torch.tensor(self.phase[row])
        return example

    def _field(self, key: str, at: Callable[[int], Tensor], row: int) -> Tensor:
        how, scale = self.form.how, self.form.scales.get(key, _as_it_is)
        if key == self.form.label and how.horizon is not None:
            return torch.stack([scale(at(row + k)) for k in range(how.horizon)])
        if key.startswith(OBSERVATION) and how.observed is not None:
            before = range(how.observed - 1, -1, -1)  # the first frame stands for what was before it
            return torch.stack([scale(at(row - min(k, self.place[row]))) for k in before])
        return scale(at(row))


def _as_it_is(values: Tensor) -> Tensor:
    return values


def make_scale(key: str, mode: str, statistics: Statistics) -> Scale:
    """Make the function by which a field is normalised, as LeRobot does it.

    Args:
        key: the field.
        mode: ``mean_std``: mean 0 and spread 1; ``min_max``: from -1 to 1.
        statistics: what its values are like.

    Returns:
        A function of values (...).
    """

    def mean_std(values: Tensor) -> Tensor:
        return ((values.double() - statistics.mean) / (statistics.std + _LEAST)).float()

    def min_max(values: Tensor) -> Tensor:
        return (2 * (values.double() - statistics.low) / (statistics.high - statistics.low + _LEAST) - 1).float()

    def fitting(values: Tensor) -> Tensor:
        try:
            out = mean_std(values) if mode == "mean_std" else min_max(values)
        except RuntimeError:
            out = None
        if out is None or out.shape != values.shape:
            shapes = tuple(statistics.mean.shape), tuple(values.shape)
            raise ConfigError(
                f"data.episodes.normalise names {quote(key)}, whose statistics are of shape {shapes[0]} and whose values of "
                f"{shapes[1]}: leave it out, and normalise it in the model."
            )
        return out

    return fitting


def measure_statistics(values: Tensor) -> Statistics:
    """Measure what values (frames, ...) are like, float64 (...)."""
    x = values.double()
    return Statistics(x.mean(0), x.std(0, correction=0), x.amin(0), x.amax(0))

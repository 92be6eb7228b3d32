"""Dense: one class at each position of an image, a volume, a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor

from collapsekit.errors import ConfigError, DataError, did_you_mean
from collapsekit.registry import task
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.stats.linear import LinearAtPlaces, fit_softmaxes, with_about
from collapsekit.stats.scores.overlap import confusion_tables, mean_dice, mean_iou, place_accuracy
from collapsekit.tasks.grid import Grid
from collapsekit.tasks.places import Places
from collapsekit.tasks.probabilities import TaskOfLogits, read_outputs, sum_to_1

_METRICS: dict[str, Callable[[Tensor], float]] = {
    "mean_iou": mean_iou,
    "mean_dice": mean_dice,
    "place_accuracy": place_accuracy,
}
POINTS = 256  # positions that are scored, by default
WIDEST = 8192  # numbers an example, positions times classes, at most


@task("dense", summary="a class at each position; cross-entropy; mean IoU, Dice or accuracy of positions")
class Dense(Places, TaskOfLogits):
    """Logits (n, C, *positions) and class numbers (n, *positions); positions of the class ``ignore``, and below 0, do not
    count. Scored are all positions, or ``points`` of them, drawn once, the same of every example."""

    tied = True
    loss_bounds, metric_bounds = NOT_NEGATIVE, SHARE

    def __init__(
        self,
        metric: str | None = None,
        points: int = POINTS,
        ignore: int = 255,
        channels: Literal["first", "last"] = "first",
        outputs: str | None = None,
    ) -> None:
        self.outputs = outputs
        self.metric_name = metric or "mean_iou"
        if self.metric_name not in _METRICS:
            near = did_you_mean(self.metric_name, _METRICS)
            raise ConfigError(f"metric {metric!r} is not one of {', '.join(_METRICS)}{near} for this task.")
        self._metric, self.points, self.ignore, self.channels = _METRICS[self.metric_name], points, ignore, channels
        self.loss_name = f"cross-entropy, mean over positions, at most {points} of them (nats)"

    @classmethod
    def create(
        cls,
        *,
        metric: str | None,
        temperature: float,
        points: int = POINTS,
        ignore: int = 255,
        channels: Literal["first", "last"] = "first",
        outputs: str | None = None,
    ) -> Self:
        del temperature
        for name, value, right in (
            ("points", points, type(points) is int and points > 0),
            ("ignore", ignore, type(ignore) is int),
            ("channels", channels, channels in ("first", "last")),
        ):
            if not right:
                wanted = "first or last" if name == "channels" else "a whole number"
                raise ConfigError(f"task_options {name} is {value!r}, expected {wanted}.")
        return cls(metric, points, ignore, channels, read_outputs(outputs))

    def read(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        del targets
        if prediction.ndim < 3:
            raise ConfigError(
                f"the model's output has shape {tuple(prediction.shape)}: task 'dense' reads logits (n, classes, "
                "*positions); of one answer an example set `task: classification`."
            )
        answers = (prediction if self.channels == "first" else prediction.movedim(-1, 1)).float()
        logits = self.logits_of(answers, alone=answers.shape[1] == 1)
        if logits.shape[1] == 1:  # one logit: the second class against the first
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        self.classes, space = logits.shape[1], tuple(logits.shape[2:])
        if self.grid is None or self.grid.space != space:
            self.grid = Grid(space, max(1, min(self.points, WIDEST // self.classes)))
        self.places = len(self.grid.places)
        return self.grid.taken(logits).transpose(1, 2).flatten(1)

    def are_distributions(self, outputs: Tensor) -> bool:
        return sum_to_1(self.apart(outputs), 2)

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        assert self.grid is not None
        if tuple(targets.shape[1:]) == (self.places,) != self.grid.space:
            return targets  # checked before
        labels = targets[:, 0] if targets.shape[1:] == (1, *self.grid.space) else targets
        if tuple(labels.shape[1:]) != self.grid.space:
            raise DataError(
                f"labels of split {split!r} have shape {tuple(targets.shape)}, the model's output has positions "
                f"{self.grid.space}: task 'dense' needs one class at each; bring them to one resolution, or set "
                "`task_options: {channels: last}` where classes are the output's last axis."
            )
        chosen = self.grid.taken(labels)
        if chosen.is_floating_point() and bool((chosen != chosen.round()).any()):
            raise DataError(f"labels of split {split!r} are fractional: task 'dense' needs class numbers.")
        chosen = chosen.long()
        chosen = torch.where((chosen < 0) | (chosen == self.ignore), -1, chosen)
        if int(chosen.max()) >= self.classes:
            raise DataError(
                f"label {int(chosen.max())} of split {split!r} is out of range: the model has {self.classes} classes, so "
                f"labels must be 0 to {self.classes - 1}, or {self.ignore} (`task_options: {{ignore: ...}}`) or below 0 "
                "where a position does not count."
            )
        self.need_some(chosen, split, "position")
        return chosen

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        alone = torch.zeros(len(targets), dtype=torch.int64)
        return self._metric(self._tables(expected, targets, alone)[0])

    def metric_left_out(self, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor | None:
        tables = self._tables(expected, targets, groups)
        whole = tables.sum(0)
        return torch.tensor([self._metric(t) for t in (whole, *(whole - tables))], dtype=torch.float64)

    def _tables(self, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor:
        return confusion_tables(self.apart(expected).argmax(2), targets, groups, self.classes)

    def fit_at_places(self, x: Tensor, targets: Tensor, l2: float) -> LinearAtPlaces:
        """Fit one softmax for all positions, which reads how often each class is at the position beside its features."""
        about = self.apart(self.prior(targets, 0))[0].log()
        shares = self.shares_of(targets) * self.places
        return LinearAtPlaces(fit_softmaxes(with_about(x, about), shares.flatten(0, 1)[:, None], l2), about)

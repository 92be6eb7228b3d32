"""Places: what tasks share that choose one class at each of several places of an example: tokens, pixels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import DataError
from collapsekit.stats.linear import Linear, fit_softmaxes
from collapsekit.tasks.base import FLOOR, Task

TIED = 10.0  # examples that the shares of classes over all places count for at one place


class Places(Task):
    """One class at each of S places of an example: outputs are S softmaxes side by side, (n, S · C), and checked targets
    are class numbers (n, S), -1 where a place does not count. An example's loss is the mean over its own places.

    ``places`` and ``classes`` are known once outputs were read; ``tied``: whether one readout reads all places, and their
    priors lean on one another.
    """

    mean_over_examples = True
    tied: ClassVar[bool] = False
    places = 1
    classes = 1

    def apart(self, values: Tensor) -> Tensor:
        """Lay values (n, S · C) out as (n, S, C)."""
        return values.reshape(len(values), self.places, self.classes)

    def expect(self, outputs: Tensor) -> Tensor:
        return self.apart(outputs.double()).softmax(2).flatten(1)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return _mean_over_places(-self.of_targets(expected, targets).clamp_min(FLOOR).log(), targets)

    def of_targets(self, expected: Tensor, targets: Tensor) -> Tensor:
        """Pick the probability of the right class at each place, (n, S); of any class where a place does not count."""
        return self.apart(expected).gather(2, targets.clamp_min(0)[..., None])[..., 0]

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        each = F.cross_entropy(self.apart(outputs).transpose(1, 2), targets, ignore_index=-1, reduction="none")
        return _mean_over_places(each, targets).mean()

    def shares_of(self, targets: Tensor) -> Tensor:
        """Spread one label an example over its places that count: (n, S, C), float64, sum 1 for each example."""
        counts = targets >= 0
        share = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
        hot = torch.zeros(*targets.shape, self.classes, dtype=torch.float64, device=targets.device)
        return hot.scatter_(2, targets.clamp_min(0)[..., None], share[..., None])

    def prior(self, targets: Tensor, width: int) -> Tensor:
        """Find the shares of classes at each place, (1, width). A class counts an example more there: one, and where places
        are tied shares of ``TIED`` more, as at all places together."""
        counts = self.shares_of(targets).sum(0)
        added = torch.full_like(counts[:1], 1.0 / self.places)
        if self.tied:
            whole = counts.sum(0, keepdim=True) + 1.0
            added = TIED / self.places * whole / whole.sum()
        counts = counts + added
        return (counts / counts.sum(1, keepdim=True)).reshape(1, -1)

    def prior_loss(self, expected: Tensor, prior: Tensor) -> Tensor | None:
        each = -(self.apart(prior.exp()) * self.apart(expected).clamp_min(FLOOR).log()).sum(2)
        return each.mean()

    def choose(self, expected: Tensor) -> Tensor | None:
        return self.apart(expected).argmax(2)

    def share_changed(self, chosen: Tensor, other: Tensor, targets: Tensor) -> Tensor:
        return _mean_over_places((chosen != other).double(), targets)

    def choices_of(self, outputs: Tensor) -> int:
        return self.classes

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        shares = self.shares_of(targets)
        if not self.tied:
            return fit_softmaxes(x, shares, l2)
        whole = shares.sum(1, keepdim=True)
        one, prior = fit_softmaxes(x, whole, l2), self.prior(targets, width).log()
        everywhere = whole.sum(0) + 1.0
        moved = self.apart(prior)[0] - (everywhere / everywhere.sum()).log()
        bias = (one.bias + moved).flatten()
        return Linear(one.weight.repeat(1, self.places), bias, one.mean, one.scale, one.gradient)

    def to_natural(self, expected: Tensor) -> Tensor:
        return expected.clamp_min(FLOOR).log()

    def from_natural(self, natural: Tensor) -> Tensor:
        return self.apart(natural).softmax(2).flatten(1)

    def unvarying(self, targets: Tensor) -> str | None:
        there = targets[targets >= 0]
        if self.tied and len(there) and bool((there == there[0]).all()):
            return f"{int(there[0])} at every place"
        return "the same" if len(targets) and bool((targets == targets[:1]).all()) else None

    def need_some(self, targets: Tensor, split: str, what: str) -> None:
        """Check that there are targets.

        Args:
            targets: checked ones, (n, S).
            split: that they are of, for the message.
            what: a target is, in words.

        Raises:
            DataError: where an example (or, where places are tied, every one) has none that counts.
        """
        empty = int((targets < 0).all(1).sum())
        if empty and (not self.tied or empty == len(targets)):
            raise DataError(
                f"{empty} of {len(targets)} examples of split {split!r} have no {what} that counts: check data.label and "
                "which labels are left out, or drop these examples."
            )


def _mean_over_places(values: Tensor, targets: Tensor) -> Tensor:
    """The mean (n,) of values (n, S) over an example's places that count; 0 where none does."""
    counts = targets >= 0
    return (values * counts).sum(1) / counts.sum(1).clamp_min(1)

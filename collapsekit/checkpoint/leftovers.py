"""Entries of a checkpoint that are no part of the model: criteria, metrics, counters, copies, what the user names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from collapsekit.checkpoint.match import NameFit, is_twin, wrapper_prefixes

# What stands beside a model in a LightningModule or a training script, as the first component of a name.
_BESIDE = re.compile(
    r"((\w+_)?(criterion|criteria|crit|loss(es)?|loss_?(fn|func|function)|metrics?|discriminators?|optimi[sz]ers?|"
    r"schedulers?|scaler))|lossfn|net_?d|disc|optim|(train|val|valid|validation|test|eval)_?"
    r"(acc|accuracy|metrics?|f1|auroc|auc|loss|mae|mse|iou|dice|confmat)\w*",
    re.IGNORECASE,
)
_COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel
_POSITIONS = "position_ids"  # whole numbers 0, 1, 2, ... that transformers kept in checkpoints up to 4.30


def drop_ignored(tensors: Mapping[str, Tensor], patterns: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors, of any shape, whose names match none of the user's ``patterns`` (fnmatch)."""
    return {name: t for name, t in tensors.items() if not matches(name, patterns)}


def matches(name: str, patterns: Collection[str]) -> bool:
    """Tell whether a name matches one of ``patterns``, as it stands or without wrappers' prefixes (``module.head.weight``
    is ``head.weight``)."""
    names = [name, *(name.removeprefix(prefix) for prefix in wrapper_prefixes(name))]
    return any(fnmatchcase(each, pattern) for pattern in patterns for each in names)


@dataclass(frozen=True)
class Leftovers:
    """Decides which names of a file that the model has no place for may be left out."""

    tensors: Mapping[str, Tensor]
    heads: frozenset[str]  # first components of the model's own names, its prefix aside
    unread: tuple[str, ...] = ()  # patterns of names that the model's own class says it does not read (re.search)

    @classmethod
    def of(cls, model: Collection[str], tensors: Mapping[str, Tensor], unread: tuple[str, ...] = ()) -> Leftovers:
        """Make one for a model.

        Args:
            model: its names.
            tensors: the file's, of any shape.
            unread: patterns of names that the model's class does not read.

        Returns:
            What decides.
        """
        return cls(tensors, frozenset(part for name in model for part in name.split(".")[:2]), unread)

    def can_go(self, name: str, fit: NameFit, *, complete: bool) -> bool:
        """Tell whether a name may be left out.

        Args:
            name: the file's.
            fit: how the file's names meet the model's.
            complete: whether all of the model's names have what they need.

        Returns:
            Whether it is of something else.
        """
        inner = fit.inner(name)
        first, last = inner.partition(".")[0], inner.rpartition(".")[2]
        if complete and fit.file_prefix and fit.is_beside(name):
            return True
        if inner in _COUNTERS or (last == _POSITIONS and not self.tensors[name].is_floating_point()):
            return True
        if any(re.search(pattern, inner) for pattern in self.unread):
            return True
        beside = _BESIDE.fullmatch(first) is not None or is_twin(first)
        return beside and "." in inner and first not in self.heads

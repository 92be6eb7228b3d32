"""Features: what one pass of the encoders over a split left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from collapsekit.adapters.base import Activations
from collapsekit.adapters.live.absence import Substitute
from collapsekit.adapters.live.presence import filled, lend
from collapsekit.data.base import Batch
from collapsekit.distributed.process_group import current
from collapsekit.features.categories import Category
from collapsekit.report.diagnosis import ReportWarning
from collapsekit.stats.inference.jackknife import assign_groups, assign_units
from collapsekit.stats.linalg.cka import Side
from collapsekit.stats.linalg.moments import Moments, leave_one_out, merge_all, moments_left_out

GROUPS = 16


@dataclass(frozen=True)
class Sums:
    """What is kept of features whose rows lie with the processes that made them."""

    groups: Mapping[str | None, list[Moments]]  # of each jackknife group, by modality; None: the fused representation
    concatenated: bool  # as Features.concatenated


@dataclass
class Facts:
    """What was found out once about examples that were recorded, and how the model reads them."""

    unread: frozenset[str] | None = None  # raw inputs that nothing behind the encoders reads
    tried: int = 0  # replays of a few examples that it took to find these out
    answers_by_row: bool | None = None  # whether an example is answered alike in whatever company
    content_seeds: dict[int, dict[str, int]] = field(default_factory=dict)  # by seed, a seed a modality
    latents: dict[str, Tensor] | None = None  # (n, latent) a modality, of models with the heads of basis reallocation
    means: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # of recordings, (1, ...), float64
    input_means: dict[str, Tensor] = field(default_factory=dict)  # of raw inputs, (1, ...), float64
    session: object | None = None  # that measures more on them
    sides: dict[str | None, Side] = field(default_factory=dict)  # of CKAs; None: the fused representation
    projected: dict[tuple[object, ...], Tensor] = field(default_factory=dict)  # wide inputs, as readouts take them


@dataclass
class Features:
    """Everything probes read of one split, n examples in canonical order: sorted by a hash of their content, so
    that results depend neither on the row order nor on the batch size nor on what the modalities are called."""

    split: str
    modalities: tuple[str, ...]
    inputs: Batch  # as the data gave them; and the labels, where the task reads outputs by them
    recorded: dict[str, Activations]  # what replaying an encoder needs
    pooled: dict[str, Tensor]  # per modality (n, d)
    fused: Tensor  # (n, D)
    outputs: Tensor  # (n, ...)
    targets: Tensor  # (n, ...)
    digest: str  # of inputs and targets
    sibling: Callable[[str], Features]
    ids: Tensor  # of each example's inputs and target, a hash of 63 bits (n,)
    units: Tensor | None = None  # what each example belongs to (n,), where the config names it
    categories: tuple[Category, ...] = ()  # the kinds of examples, where the config names what says so
    contents: Tensor | None = None  # of each example's inputs alone, such a hash (n,)
    present: dict[str, Tensor] = field(default_factory=dict)  # who has it, bool (n,), of modalities that some lack
    alike: Tensor | None = None  # the group of each example, within which it lends and takes, (n,); None: all may
    substitutes: dict[str, Substitute] = field(
        default_factory=dict
    )  # for absent modalities, of which the config says something
    described: Batch = field(default_factory=dict)  # by key numbers (n, d) of values that do not stack
    predictions: Batch = field(default_factory=dict)  # of the user's own models of one modality, by modality (n, ...)
    alone: Batch = field(default_factory=dict)  # what the model itself says to one modality and nothing else, (n, ...)
    answering: tuple[str, ...] = ()  # inputs of modalities that hold the answers themselves
    leaking: tuple[str, ...] = ()  # modalities whose encoders read the answers that stand in the model's input
    warnings: tuple[ReportWarning, ...] = ()  # what the model does beside answering
    batch: int | None = None  # rows of a forward, where what an example gives depends on the others in its batch
    read: Mapping[str, Features] = field(default_factory=dict)  # every split read until now, by name
    sums: Sums | None = None  # where set, recorded and pooled features and the fused representation are shapes alone
    facts: Facts = field(init=False, default_factory=Facts)  # of these very examples: no copy takes them along

    def __len__(self) -> int:
        return len(self.outputs)

    @cached_property
    def groups(self) -> Tensor:
        """Jackknife group of each example, (n,); examples of one unit are in one group."""
        return groups_of(len(self), self.units)

    @property
    def independent(self) -> int:
        """How many examples do not depend on others: all, or as many as there are units."""
        return len(self) if self.units is None else len(self.units.unique())

    @property
    def fifth(self) -> Tensor:
        """About a fifth of the examples (n,), bool, to be held out; examples of one unit are on one side."""
        return (torch.arange(len(self)) if self.units is None else self.groups) % 5 == 0

    @cached_property
    def concatenated(self) -> bool:
        """Whether the fused representation is only the modalities' features side by side, in any order."""
        if self.sums is not None:
            return self.sums.concatenated
        if self.fused.shape[1] != sum(x.shape[1] for x in self.pooled.values()):
            return False
        fused = {c.numpy().tobytes() for c in self.fused.T.contiguous()}
        return all(c.numpy().tobytes() in fused for x in self.pooled.values() for c in x.T.contiguous())

    def numbers(self, key: str) -> Tensor:
        """Return a raw input (n, ...); of complex numbers their real and imaginary parts (n, ..., 2), of values that do not
        stack numbers (n, d) that describe them."""
        if key in self.described:
            return self.described[key]
        value = self.inputs[key]
        return filled(torch.view_as_real(value) if value.is_complex() else value)

    def lenders(self, modality: str, rows: Tensor, wanted: Tensor) -> Tensor:
        """Say from which examples a modality is taken, as one that lacks it gives none and takes none.

        Args:
            modality: which.
            rows: the examples that it is taken for, int64 (r,).
            wanted: the examples that it would be taken from, int64 (r,).

        Returns:
            int64 (r,).
        """
        there = self.present.get(modality)
        return wanted if there is None else lend(there, rows, wanted)

    def mean(self, modality: str, part: int) -> Tensor:
        """Average one tensor that was recorded of a modality over examples: (1, ...), float64."""
        known = self.facts.means
        if (modality, part) not in known:
            values, there = self.recorded[modality][part], self.present.get(modality)
            known[modality, part] = (values if there is None else values[there]).double().mean(0, keepdim=True)
        return known[modality, part]

    def input_mean(self, key: str) -> Tensor:
        """Average a raw input over examples: (1, ...), float64."""
        known = self.facts.input_means
        if key not in known:
            known[key] = self.inputs[key].double().mean(0, keepdim=True)
        return known[key]

    def moments(self, x: Tensor) -> tuple[Moments, Iterator[Moments]]:
        """Compute moments of ``x`` (n, d) over all examples, and without each jackknife group; processes share the
        groups.
        """
        return moments_left_out(x, self.groups, int(self.groups.max()) + 1, current().map)

    def moments_of(self, modality: str | None) -> tuple[Moments, Iterator[Moments]]:
        """Compute moments of a modality's pooled features, or (None) of the fused representation, over all examples, and
        without each jackknife group; of sums, where these are all that there is.
        """
        if self.sums is not None:
            return merge_all(self.sums.groups[modality]), leave_one_out(self.sums.groups[modality])
        return self.moments(self.fused if modality is None else self.pooled[modality])

    def side(self, modality: str | None) -> Side:
        """Prepare a modality's features, or (None) the fused representation, as a side of CKAs, once for all that it is
        compared with.

        Raises NumericsError where they do not vary.
        """
        known = self.facts.sides
        if modality not in known:
            known[modality] = self.side_of(self.fused if modality is None else self.pooled[modality])
        return known[modality]

    def side_of(self, x: Tensor) -> Side:
        """Prepare ``x`` (n, d) as a side of CKAs over the jackknife groups. Raises NumericsError where it does not
        vary.
        """
        return Side.of(x, self.groups, int(self.groups.max()) + 1, each=current().map)

    def taken(self, rows: Tensor) -> Features:
        """Pick some examples, in the order of ``rows``, int64 (r,), as Features of their own."""
        return replace(
            self,
            inputs={k: v[rows] for k, v in self.inputs.items()},
            recorded={m: tuple(t[rows] for t in r) for m, r in self.recorded.items()},
            pooled={m: x[rows] for m, x in self.pooled.items()},
            fused=self.fused[rows],
            outputs=self.outputs[rows],
            targets=self.targets[rows],
            ids=self.ids[rows],
            contents=None if self.contents is None else self.contents[rows],
            present={m: x[rows] for m, x in self.present.items()},
            described={k: x[rows] for k, x in self.described.items()},
            predictions={m: x[rows] for m, x in self.predictions.items()},
            alone={m: x[rows] for m, x in self.alone.items()},
            units=None if self.units is None else self.units[rows],
            alike=None if self.alike is None else self.alike[rows],
            categories=(),
        )

    def of_category(self, category: Category) -> Features:
        """Pick the examples of one category, each in the jackknife group that it is in among all examples."""
        found = self.taken(category.rows)
        found.groups = category.groups
        return found

    def changed(self, recorded: Mapping[str, Activations], inputs: Batch | None = None) -> Features:
        """Return the same examples with other recordings (and raw ``inputs``), to be replayed.

        Which raw inputs are read past the encoders stays known, as that is the model's doing; whatever else
        follows from recordings is found out anew.
        """
        made = replace(self, recorded=dict(recorded), inputs=self.inputs if inputs is None else inputs)
        made.facts.unread = self.facts.unread
        return made

    def of(self, split: str) -> Features:
        """Return features of another split, extracted on first use. Raises ConfigError where there is none."""
        return self if split == self.split else self.sibling(split)


def groups_of(n: int, units: Tensor | None) -> Tensor:
    """Assign a jackknife group to each of n examples, (n,); ``units``: what each belongs to (n,), None: to nothing."""
    return assign_groups(n, min(GROUPS, n)) if units is None else assign_units(units, GROUPS)


def scaled(recorded: Activations, factor: float | Tensor) -> Activations:
    """Multiply recorded features (n, ...) by ``factor``; tensors that are not floating (masks, indices) stay."""
    return tuple(
        t * (factor.to(t.dtype) if isinstance(factor, Tensor) else factor) if t.is_floating_point() else t
        for t in recorded
    )

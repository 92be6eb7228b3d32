"""A pass of several processes of which features are summed where they are made: the sums travel, the features do not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from collapsekit.adapters.base import Activations, Adapter, ForwardPass
from collapsekit.distributed.process_group import ProcessGroup
from collapsekit.features.features import Sums
from collapsekit.features.segments import GroupMoments, GroupSums, merge_shares, share_of
from collapsekit.io.spill import SpillColumn
from collapsekit.registry import Reads
from collapsekit.stats.linalg import moments
from collapsekit.stats.linalg.moments import KEEP, Moments, segment_rows


def worth_summing(n: int, world: ProcessGroup) -> bool:
    """Tell whether every process would have a segment of n examples to sum; of fewer, features travel."""
    return 1 < world.size <= -(-n // segment_rows(n))


def find_undecided(adapter: Adapter, recorded: Mapping[str, Activations]) -> dict[str, torch.Size]:
    """Find the features whose layout neither config nor layers say, and that the adapter pools: their shapes by modality."""
    if type(adapter).pool is not Adapter.pool:
        return {}
    found = {}
    for m in adapter.modalities:
        section, x = adapter.config.modalities[m], adapter.features_of(m, recorded[m])
        if x.ndim > 2 and section.pool != "flatten" and section.mask is None and adapter.layout(m, x) is None:
            found[m] = x.shape
    return found


def widths_to_sum(adapter: Adapter, first: ForwardPass, count: int, reads: Reads) -> dict[str | None, int] | None:
    """Say which features are summed, and how wide they are.

    Args:
        adapter: the model.
        first: its pass over some examples.
        count: of jackknife groups.
        reads: what the probes read.

    Returns:
        Widths by modality, None being the fused representation; None where rows are needed all the same, as it is decided
        by them how features are pooled, or as the sums are too large to keep.
    """
    if find_undecided(adapter, first.recorded):
        return None
    widths: dict[str | None, int] = {None: first.prediction.fused.shape[1]}
    if reads == "sums":
        widths |= {m: x.shape[1] for m, x in first.pooled.items()}
    return widths if all(count * d * d * 8 <= KEEP for d in widths.values()) else None


@dataclass
class RowShape:
    """A column of which nothing but the shape of a row is kept; it looks as a SpillColumn does."""

    rows: int
    like: Tensor

    def tensor(self) -> Tensor:
        """Return all rows (n, ...), without numbers: whoever computes with them gets an error."""
        return torch.empty(self.rows, *self.like.shape[1:], dtype=self.like.dtype, device="meta")


@dataclass
class SummedPass:
    """What all processes know of a pass whose features were summed."""

    recorded: dict[str, list[RowShape]]
    pooled: dict[str, RowShape]
    fused: RowShape
    outputs: SpillColumn
    sums: Sums


def run_summed(
    batches: Callable[[int, int], Iterator[ForwardPass]],
    first: ForwardPass,
    groups: Tensor,
    widths: Mapping[str | None, int],
    outputs: SpillColumn,
    world: ProcessGroup,
) -> SummedPass:
    """Run this process's share of a pass, and learn the sums of all.

    Args:
        batches: yields the passes over the rows from one to before another, cut to these.
        first: the pass over the first batch, for shapes.
        groups: of all n examples, (n,).
        widths: what is summed, see widths_to_sum.
        outputs: an empty column for those of all examples.
        world: the processes.

    Returns:
        The sums and the outputs of all examples.
    """
    n, count = len(groups), int(groups.max()) + 1
    first_row, last_row = share_of(n, world.rank, world.size)
    sums = {key: GroupSums(d, groups, count, first_row, last_row) for key, d in widths.items()}
    columns = _Columns(first)

    outputs_here = [first.prediction.outputs[:0]]

    def run() -> None:
        for result in batches(first_row, last_row):
            for key, local in sums.items():
                local.add(result.prediction.fused if key is None else result.pooled[key])
            columns.add(result)
            outputs_here.append(result.prediction.outputs)

    world.each(run, "a share of the pass")
    for _, part in world.in_turn([torch.cat(outputs_here)], "outputs"):
        outputs.append(part)
    concatenated = columns.concatenated(world)
    return SummedPass(
        {m: [RowShape(n, t) for t in r] for m, r in first.recorded.items()},
        {m: RowShape(n, x) for m, x in first.pooled.items()},
        RowShape(n, first.prediction.fused),
        outputs,
        Sums({key: _merged(local, world) for key, local in sums.items()}, concatenated),
    )


def _merged(local: GroupSums, world: ProcessGroup) -> list[Moments]:
    """Moments of each group of all examples. Of what others sent no more than one tensor is held unmerged."""
    places = world.share([(place, size) for place, size, _ in local.tree.nodes], "segments")
    coming = world.in_turn([part.packed() for _, _, part in local.tree.nodes], "sums")
    left = [iter(some) for some in places]
    return merge_shares((*next(left[rank]), GroupMoments.unpacked(numbers)) for rank, numbers in coming)


@dataclass
class _Columns:
    """Whether the fused representation is the features side by side, bit for bit, by digests of columns."""

    first: ForwardPass
    digests: tuple[list[hashlib.blake2b], list[hashlib.blake2b]] | None = field(
        init=False
    )  # fused, and pooled; None: no
    held: list[tuple[Tensor, Tensor]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        fused, pooled = self._both(self.first)
        alike = fused.shape[1] == pooled.shape[1]
        new = [[hashlib.blake2b(digest_size=16) for _ in range(fused.shape[1])] for _ in range(2)]
        self.digests = (new[0], new[1]) if alike else None

    @staticmethod
    def _both(result: ForwardPass) -> tuple[Tensor, Tensor]:
        return result.prediction.fused, torch.cat([x.float() for x in result.pooled.values()], 1)

    def add(self, result: ForwardPass) -> None:
        """Take in some rows."""
        if self.digests is None:
            return
        self.held.append(self._both(result))
        if sum(len(fused) for fused, _ in self.held) >= moments.ROWS:
            self._take()

    def _take(self) -> None:
        if self.digests is None or not self.held:
            return
        for digests, parts in zip(self.digests, zip(*self.held, strict=True), strict=True):
            for digest, column in zip(digests, torch.cat(parts).T.contiguous(), strict=True):
                digest.update(column.numpy().data)
        self.held = []
        fused, pooled = self._digests()
        if not pooled <= fused:
            self.digests = None

    def _digests(self) -> tuple[set[bytes], set[bytes]]:
        assert self.digests is not None
        return {d.digest() for d in self.digests[0]}, {d.digest() for d in self.digests[1]}

    def concatenated(self, world: ProcessGroup) -> bool:
        """Tell whether every pooled column is a fused one, over the rows of all processes, as Features.concatenated does."""
        self._take()
        local = None if self.digests is None else [[d.digest() for d in some] for some in self.digests]
        every = world.share(local, "digests of columns")
        if any(each is None for each in every):
            return False
        fused, pooled = (set(zip(*(each[side] for each in every if each), strict=True)) for side in (0, 1))
        return pooled <= fused


def cut(result: ForwardPass, start: int, first: int, last: int) -> ForwardPass:
    """Cut a pass to some of its rows.

    Args:
        result: the pass.
        start: the first row that it is over.
        first: the first row that is wanted.
        last: the row behind the last that is wanted.

    Returns:
        The pass over the wanted rows, without what was recorded.
    """
    rows = slice(max(0, first - start), max(0, last - start))
    prediction = type(result.prediction)(result.prediction.fused[rows], result.prediction.outputs[rows])
    pooled = {m: x[rows] for m, x in result.pooled.items()}
    return ForwardPass({}, pooled, prediction)


def least_read(reads: Sequence[Reads]) -> Reads:
    """Say what probes that read all of these need at least."""
    return next((kind for kind in ("rows", "sums") if kind in reads), "fused sums")

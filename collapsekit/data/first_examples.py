"""The first examples of each split, and how many there are in all."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.context import Progress
from collapsekit.data.base import Batch, Source
from collapsekit.data.objects import ObjectStore


class FirstExamples(Source):
    """A source of which at most ``few`` examples a split are given. A split that does not say how long it is is read
    through, once, and counted."""

    def __init__(self, source: Source, few: int, limit: int | None, progress: Progress) -> None:
        """``limit``: examples a split that a diagnosis reads, at most; None: every one."""
        self.source, self.few, self.limit, self.progress = source, few, limit, progress
        self.objects = source.objects
        self._counted: dict[str, int] = {}

    def ragged(self, key: str) -> ObjectStore | None:
        return self.source.ragged(key)

    def splits(self) -> list[str]:
        return self.source.splits()

    def count(self, split: str) -> int | None:
        return self.source.count(split)

    def length(self, split: str) -> int | None:
        """Number of examples that a diagnosis would read; None for a split that is not known yet: read it first."""
        length = self.source.length(split)
        if length is None:
            return self._counted.get(split)
        return length if self.limit is None else min(length, self.limit)

    def sizes(self) -> dict[str, dict[str, int] | None]:
        return self.source.sizes()

    def batches(self, split: str, keys: list[str], size: int, limit: int | None, seed: int) -> Iterator[Batch]:
        if self.source.length(split) is None:
            self.progress.note(
                f"Split {split!r} does not say how many examples it has, so it is read through (--limit N ends that sooner)."
            )
            yield from self._counting(split, self.source.batches(split, keys, size, self.limit, seed))
            return
        few = self.few if self.limit is None else min(self.few, self.limit)
        yield from self.source.batches(split, keys, size, few if limit is None else min(few, limit), seed)

    def _counting(self, split: str, batches: Iterator[Batch]) -> Iterator[Batch]:
        count = 0
        for batch in batches:
            rows = len(next(iter(batch.values())))
            if count < self.few:
                yield {k: v[: self.few - count] for k, v in batch.items()}
            count += rows
            self.progress.step(f"counting {split}", count, None)
        self._counted[split] = count

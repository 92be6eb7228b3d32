"""Rows that come a few at a time: in memory up to a budget, beyond it in files that are mapped and vanish by themselves."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from collapsekit.errors import ConfigError
from collapsekit.io.limits import MEMORY


class SpillBuffer:
    """Makes columns, which share one budget of ``budget`` bytes; ``folder``: where files are made (default: the system's
    temporary folder). A file has no name once it is mapped, so nothing is left of it however the process ends."""

    def __init__(self, budget: int = MEMORY, folder: str | Path | None = None) -> None:
        self.left, self.folder = budget, folder
        self.spilled = 0  # bytes that went to files

    def column(self) -> SpillColumn:
        """Return an empty column."""
        return SpillColumn(self)

    def taken(self, values: Tensor, rows: Tensor, step: int = 4096) -> Tensor:
        """Copy some rows of a tensor into a column, a few at a time.

        Args:
            values: shape (n, *), what rows are taken from.
            rows: (k,), their numbers.
            step: how many are taken at a time.

        Returns:
            ``values[rows]``, of shape (k, *), in memory or mapped from a file.
        """
        column = self.column()
        for some in rows.split(step):
            column.append(values[some])
        return column.tensor()


class SpillColumn:
    """One tensor, growing along its first axis."""

    def __init__(self, storage: SpillBuffer) -> None:
        self._storage = storage
        self._parts: list[Tensor] = []
        self._file: int | None = None
        self._written = 0
        self._like: Tensor | None = None
        self._rows = 0

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of a row; None while there is none."""
        return None if self._like is None else tuple(self._like.shape[1:])

    def append(self, rows: Tensor) -> None:
        """Add some rows (k, *), of the shape and dtype of those before. Raises ConfigError where the disk has no room."""
        rows = rows.detach().cpu().contiguous()
        if self._like is None:
            self._like = rows[:0]
        size = rows.numel() * rows.element_size()
        self._rows += len(rows)
        if self._file is None and size <= self._storage.left:
            self._storage.left -= size
            self._parts.append(rows)
            return
        if self._file is None:
            self._open()
        self._write(rows)

    def tensor(self) -> Tensor:
        """Return all rows, of shape (n, *): in memory, or mapped from a file."""
        like = self._like
        if like is None:
            return torch.empty(0)
        if self._file is None:
            return self._parts[0] if len(self._parts) == 1 else torch.cat([like, *self._parts])
        if not self._written:
            return like
        mapped = torch.from_file(
            f"/dev/fd/{self._file}", shared=True, size=self._written // like.element_size(), dtype=like.dtype
        )
        os.close(self._file)
        return mapped.reshape(self._rows, *like.shape[1:])

    def _open(self) -> None:
        folder = self._storage.folder
        try:
            # It has no name, or where systems give it one, none for long: it lives as long as it is open or mapped.
            with tempfile.TemporaryFile(prefix="collapsekit-", dir=folder, buffering=0) as file:
                self._file = os.dup(file.fileno())
        except OSError as e:
            where = folder or tempfile.gettempdir()
            raise ConfigError(
                f"features beyond the memory budget cannot be kept in {where} ({e.strerror}): set TMPDIR to a folder "
                "that can be written to, or allow more memory."
            ) from None
        held, self._parts = self._parts, []
        for part in held:
            self._storage.left += part.numel() * part.element_size()
            self._write(part)

    def _write(self, rows: Tensor) -> None:
        assert self._file is not None
        if not rows.numel():
            return
        data = memoryview(rows.reshape(-1).view(torch.uint8).numpy().data)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as e:
            raise ConfigError(
                f"features beyond the memory budget cannot be kept on disk ({e.strerror}) after "
                f"{self._storage.spilled / 2**30:.1f} GiB: free some space, set TMPDIR to another disk, allow more memory, "
                "or diagnose fewer examples with --limit."
            ) from None
        size = rows.numel() * rows.element_size()
        self._written += size
        self._storage.spilled += size

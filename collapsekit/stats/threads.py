"""Small problems on one thread: waiting for the others costs more than they do, most of all on a busy machine, where an
eigendecomposition that takes 10 ms on one thread was seen to take 3 s on two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 5e8  # floating-point operations a step under which a second thread does not pay
_allowed: list[int] = []  # threads there were before the outermost threads_for


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """One torch thread while steps of ``operations`` run, if they are small; else as many as there were before any of
    these, which may lie in one another; the old number afterwards.

    The choice follows from the problem alone, so that the same run gives the same bits.
    """
    before = torch.get_num_threads()
    _allowed.append(_allowed[0] if _allowed else before)
    wanted = 1 if operations < SMALL else _allowed[0]
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        _allowed.pop()
        if wanted != before:
            torch.set_num_threads(before)

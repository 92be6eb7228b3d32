"""Small problems on one thread: waiting for the others costs more than they do, most of all on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 5e8  # floating-point operations a step under which a second thread does not pay


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """One torch thread while steps of ``operations`` run, if they are small; the old number afterwards.

    The choice follows from the problem alone, so that the same run gives the same bits.
    """
    before = torch.get_num_threads()
    if operations < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

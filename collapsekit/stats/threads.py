"""Small problems on one thread: waiting for the others costs more than they do, most of all on a busy machine, where an
eigendecomposition that takes 10 ms on one thread was seen to take 3 s on two."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import local
from typing import TypeVar

import torch

T = TypeVar("T")
Item = TypeVar("Item")

SMALL = 5e8  # floating-point operations a step under which a second thread does not pay
_allowed: list[int] = []  # threads there were before the outermost threads_for
_worker = local()


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """Run a block on one torch thread where its steps, of ``operations`` each, are small.

    Else on as many as there were before any of these, which may lie in one another; afterwards on the old number. The
    choice follows from the problem alone, so that the same run gives the same bits.
    """
    if getattr(_worker, "busy", False):  # side by side with others, each on one thread
        yield
        return
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


def side_by_side(make: Callable[[Item], T], items: Iterable[Item], operations: float) -> list[T]:
    """Apply ``make`` to every item, small ones at the same time.

    Small ones run on a thread each, as many at a time as there are threads, with no more items in hand than that; large
    ones one after another on all threads. What is computed is the same either way.

    Args:
        make: what is computed of an item.
        items: any iterable, taken from as there is room.
        operations: floating-point operations an item.

    Returns:
        What ``make`` gives, in the order of the items.
    """
    workers = _allowed[0] if _allowed else torch.get_num_threads()
    if workers < 2 or operations >= SMALL or getattr(_worker, "busy", False):
        return list(map(make, items))
    found: list[T] = []
    waiting: deque[Future[T]] = deque()
    with threads_for(0), ThreadPoolExecutor(workers, initializer=_alone) as pool:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > workers:
                found.append(waiting.popleft().result())
        found += [each.result() for each in waiting]
    return found


def _alone() -> None:
    _worker.busy = True
    torch.set_num_threads(1)  # OpenMP asks each thread anew

"""Several processes at one job: each does some of the pieces, all get all results, in the order of the pieces.

A piece is computed as it would be alone and nothing is added up across processes, so that results do not depend on how many
there are, bit for bit where they compute alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, TypeVar, cast

from collapsekit import errors
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.user_code import exit_refused, is_exit

T = TypeVar("T")
Item = TypeVar("Item")
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun and its like set
TIMEOUT = timedelta(minutes=30)  # for the slowest of a round


class World:
    """The processes of one job; this is the ``rank``-th of ``size``."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._inside = False
        self._asked = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process where ``cuda`` without a number is asked for: each has one of its machine's."""
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" and self.size > 1 else name

    def each(self, make: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """``make`` of every item, in order; every process computes each size-th item and gets them all, a round of ``size``
        items at a time, of which no more are taken in hand. Inside ``make`` nothing is shared any more.

        The error of the first item that fails is raised by all.
        """
        if self.size == 1 or self._inside:
            yield from map(make, items)
            return
        coming = iter(items)
        while some := list(islice(coming, self.size)):
            mine = self.rank < len(some)
            piece = partial(make, some[self.rank]) if mine else _nothing
            yield from self._gathered(piece, mine, len(some), _name(make))

    def once(self, make: Callable[[], T]) -> T:
        """``make()`` of the first process, for all: of what may differ between machines, such as what a folder holds."""
        if self.size == 1 or self._inside:
            return make()
        return next(self._gathered(make, self.first, 1, _name(make)))

    def agree(self, value: Any, what: str) -> None:
        """Raises ConfigError on all processes unless ``value`` is the same on all; ``what`` it is, for the message."""
        if self.size == 1 or self._inside:
            return
        values = list(self._gathered(lambda: value, True, self.size, what))
        odd = next((i for i, other in enumerate(values) if other != values[0]), None)
        if odd is not None:
            raise ConfigError(f"process {odd} of {self.size} has {what} that differ from those of process 0.")

    @contextmanager
    def in_touch(self) -> Iterator[None]:
        """For what goes through torch.distributed beside this class: raises ConfigError where another process is gone."""
        try:
            yield
        except (RuntimeError, ConfigError) as e:
            # The cause, where it is a model's forward, which says what it was called with.
            lost = e if isinstance(e, RuntimeError) else e.__cause__
            if self.size > 1 and isinstance(lost, RuntimeError) and re.search("gloo|NCCL", str(lost)):
                raise self._alone(lost) from None
            raise

    def _alone(self, e: RuntimeError) -> ConfigError:
        return ConfigError(
            f"process {self.rank} of {self.size} lost touch with another one: look at what that one said "
            f"({str(e).splitlines()[0][:200]})."
        )

    def _gathered(self, make: Callable[[], T], mine: bool, count: int, name: str) -> Iterator[T]:
        """What the first ``count`` processes made; whether this one is among them is ``mine``. All must be at the place
        called ``name``."""
        import torch.distributed as dist

        said: tuple[str, Any] = ("", None)
        self._asked += 1
        place = f"{name}, question {self._asked}"
        failed: BaseException | None = None
        if mine:
            self._inside = True
            try:
                said = ("made", make())
            except (Exception, SystemExit) as e:  # noqa: BLE001 - whatever it is, the others wait to hear of it
                failed = exit_refused(e) if is_exit(e) else e
                said = ("failed", (type(failed).__name__, str(failed)))
            finally:
                self._inside = False
        heard: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(heard, (place, *said))
        except RuntimeError as e:
            if failed is not None:
                raise failed from None
            raise self._alone(e) from None
        for rank, (where, kind, value) in enumerate(heard):
            if kind == "failed":
                raise _told(failed if rank == self.rank and failed is not None else _error(rank, *value))
            if where != place:
                raise ConfigError(
                    f"process {rank} of {self.size} is at {where} where process {self.rank} is at {place}: all must be "
                    "given the same command, data and versions."
                )
        yield from (cast(T, value) for _, _, value in heard[:count])


def _nothing() -> Any:
    return None


def _name(make: Callable[..., Any]) -> str:
    return getattr(make, "__qualname__", type(make).__name__)


def _told(error: Exception | BaseException) -> BaseException:
    """An error that all processes raise: marked, so that only the first one prints it."""
    error.told_by_first = True  # type: ignore[union-attr]
    return error


def _error(rank: int, kind: str, text: str) -> Exception:
    """An error of another process, as this one raises it."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, CollapsekitError):
        return found(text)
    return ConfigError(f"process {rank} failed ({kind}: {text.rstrip('.')}): see what it printed.")


_ALONE = World()
_current = [_ALONE]


def current() -> World:
    """The processes this one works with; itself alone where it was not started as one of several."""
    return _current[-1]


def started_together() -> bool:
    """Whether this process was started as one of several, by torchrun or its like."""
    return int(os.environ.get("WORLD_SIZE", "1") or "1") > 1


@contextmanager
def together() -> Iterator[World]:
    """Join the processes that torchrun, or whoever set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, started; this process
    alone where nobody did. Raises ConfigError where they do not find one another."""
    if not started_together():
        yield _ALONE
        return
    import torch.distributed as dist

    lacking = [name for name in VARIABLES if not os.environ.get(name)]
    if lacking:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but {' and '.join(lacking)} not set: start with torchrun "
            "--nproc-per-node N -m collapsekit ..., or unset WORLD_SIZE."
        )
    own = not dist.is_initialized()
    try:
        if own:
            dist.init_process_group("gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as e:
        raise ConfigError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} found no others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({str(e).splitlines()[0][:200]})."
        ) from None
    _current.append(World(dist.get_rank(), dist.get_world_size()))
    try:
        yield current()
    finally:
        _current.pop()
        if own:
            dist.destroy_process_group()

"""Several processes at one job: each does some of the pieces, all get all results, in the order of the pieces.

A piece is computed as it would be alone and nothing is added up across processes, so that results do not depend on how many
there are, bit for bit where they compute alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, cast

from collapsekit import errors
from collapsekit.distributed import heartbeat, rendezvous
from collapsekit.distributed.heartbeat import Heartbeat
from collapsekit.distributed.rendezvous import Arrivals, Place, connect, hush, place, seconds
from collapsekit.errors import CollapsekitError, ConfigError, ProcessLostError
from collapsekit.user_code.exits import exit_refused, is_exit

if TYPE_CHECKING:
    from torch import Tensor, dtype

T = TypeVar("T")
Item = TypeVar("Item")
_ABSENT = 10.0  # seconds to tell others that this process will not come
TIMEOUT = timedelta(days=30)  # for the slowest of a round: who is gone shows by its silence, not by how long it takes


class ProcessGroup:
    """The processes of one job; this is the ``rank``-th of ``size``."""

    def __init__(self, rank: int = 0, size: int = 1, watch: Heartbeat | None = None) -> None:
        self.rank, self.size, self.watch = rank, size, watch
        self._inside = False
        self._asked = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the device of this process where ``cuda`` without a number is asked for: each has one of its
        machine's.
        """
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" and self.size > 1 else name

    def map(self, make: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
        """Yield ``make`` of every item, in order; every process computes each size-th item and gets them all, a round
        of ``size`` items at a time, of which no more are taken in hand. Inside ``make`` nothing is shared any more.

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

    def on_main(self, make: Callable[[], T]) -> T:
        """Return ``make()`` of the first process, for all: of what may differ between machines, such as what a folder
        holds.
        """
        if self.size == 1 or self._inside:
            return make()
        return next(self._gathered(make, self.is_main, 1, _name(make)))

    def share(self, value: T, what: str) -> list[T]:
        """Return the ``value`` of every process, in their order; ``what`` it is, for messages."""
        return self.each(lambda: value, what)

    def each(self, make: Callable[[], T], what: str) -> list[T]:
        """Return what ``make`` gives in every process, in their order; ``what`` it is, for messages.

        The error of the first process that fails is raised by all.
        """
        if self.size == 1 or self._inside:
            return [make()]
        return list(self._gathered(make, True, self.size, what))

    def in_turn(self, mine: Sequence[Tensor], what: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the tensors of every process with its rank, in their order, one at a time: no process holds more
        than one that is not its own. All must take them to the end, and do nothing else together meanwhile.

        Args:
            mine: those of this process, of any shape, on the CPU.
            what: they are, for messages.

        Yields:
            The rank that a tensor is of, and the tensor.
        """
        kinds = self.share([(tuple(t.shape), t.dtype) for t in mine], what)
        for rank, some in enumerate(kinds):
            for number, (shape, dtype) in enumerate(some):
                yield rank, self._broadcast(mine[number] if rank == self.rank else None, shape, dtype, rank)

    def _broadcast(self, sending: Tensor | None, shape: Sequence[int], dtype: dtype, rank: int) -> Tensor:
        """One tensor of the process ``rank``, in all of them."""
        import torch
        import torch.distributed as dist

        value = torch.empty(*shape, dtype=dtype) if sending is None else sending.contiguous()
        if self.size > 1:
            with self.in_touch():
                dist.broadcast(value, src=rank)
        return value

    def assert_same(self, value: Any, what: str) -> None:
        """Raise ConfigError on all processes unless ``value`` is the same on all; ``what`` it is, for the message."""
        if self.size == 1 or self._inside:  # what is no number is not the same as itself
            return
        values = self.share(value, what)
        odd = next((i for i, other in enumerate(values) if other != values[0]), None)
        if odd is not None:
            raise ConfigError(f"process {odd} of {self.size} has {what} that differ from those of process 0.")

    @contextmanager
    def in_touch(self) -> Iterator[None]:
        """Watch the others during what goes through torch.distributed beside this class.

        Raises ProcessLostError where another process is gone, or the error that it said it ended with.
        """
        try:
            yield
        except (RuntimeError, ConfigError) as e:
            # The cause, where it is a model's forward, which says what it was called with.
            lost = e if isinstance(e, RuntimeError) else e.__cause__
            if self.size > 1 and isinstance(lost, RuntimeError) and re.search("gloo|NCCL", str(lost)):
                raise self._alone(lost) from None
            raise

    def _alone(self, e: RuntimeError) -> CollapsekitError:
        told = self.watch.failure() if self.watch is not None else None
        return told or ProcessLostError(
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
                raise _mark_shared(failed if rank == self.rank and failed is not None else _error(rank, *value))
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


def _mark_shared(error: Exception | BaseException) -> BaseException:
    """An error that all processes raise: marked, so that only the first one prints it."""
    error.told_by_first = True  # type: ignore[union-attr]
    return error


def _error(rank: int, kind: str, text: str) -> Exception:
    """An error of another process, as this one raises it."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, CollapsekitError):
        return found(text)
    return ProcessLostError(f"process {rank} failed ({kind}: {text.rstrip('.')}): see what it printed.")


_ALONE = ProcessGroup()
_current = [_ALONE]


def current() -> ProcessGroup:
    """Return the processes this one works with; itself alone where it was not started as one of several."""
    return _current[-1]


def started_together() -> bool:
    """Tell whether this process was started as one of several, by torchrun or its like."""
    return int(os.environ.get("WORLD_SIZE", "1") or "1") > 1


_meetings = [0]  # how often this process met others


@contextmanager
def together(rendezvous_timeout: float | None = None, heartbeat_timeout: float | None = None) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun, or whoever set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, started; this process
    alone where nobody did.

    Raises ConfigError where they do not find one another within ``rendezvous_timeout`` seconds (default:
    $COLLAPSEKIT_RENDEZVOUS_TIMEOUT, else 60). Where one of them gives no sign of life for ``heartbeat_timeout`` seconds
    (default: $COLLAPSEKIT_HEARTBEAT_TIMEOUT, else 45), the others say so and end: exit code 4.
    """
    if not started_together():
        yield _ALONE
        return
    hush()
    import torch.distributed as dist

    _meetings[0] += 1
    meeting = seconds("COLLAPSEKIT_RENDEZVOUS_TIMEOUT", rendezvous.SECONDS, rendezvous_timeout)
    silence = seconds("COLLAPSEKIT_HEARTBEAT_TIMEOUT", heartbeat.SECONDS, heartbeat_timeout)
    own = not dist.is_initialized()
    watch = _met(place(), meeting, silence) if own else _met_already(meeting, silence)
    failed: BaseException | None = None
    _current.append(ProcessGroup(dist.get_rank(), dist.get_world_size(), watch))
    try:
        yield current()
    except BaseException as e:
        failed = e
        raise
    finally:
        _current.pop()
        watch.tell(failed)
        if own:
            dist.destroy_process_group()  # whoever waits for this process wakes up
        watch.part()


def _met(at: Place, meeting: float, silence: float) -> Heartbeat:
    """The watch over the others, once all have come and torch.distributed has joined them."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    watch = Heartbeat(at, silence, partial(connect, at, meeting, _meetings[0]))
    watch.meet(meeting)
    try:
        # A connection of its own: what torch waits for there must not keep signs of life waiting.
        store = PrefixStore("gloo", connect(at, meeting, _meetings[0], again=True))
        dist.init_process_group("gloo", store=store, rank=at.rank, world_size=at.size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as e:
        watch.tell(e)
        watch.part()
        raise watch.failure() or ProcessLostError(
            f"{at} could not be joined with the others ({str(e).splitlines()[0][:200]})."
        ) from None
    return watch


def _met_already(meeting: float, silence: float) -> Heartbeat:
    """The watch over the processes of the caller's own process group, which lives by the caller's timeouts."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

    def store() -> Store:
        found = _get_default_store()
        return PrefixStore(f"collapsekit/{_meetings[0]}", found.clone() if hasattr(found, "clone") else found)

    at = Place(dist.get_rank(), dist.get_world_size(), "its process group", 0, None)
    watch = Heartbeat(at, silence, store, met=True)
    watch.meet(meeting)
    return watch


def tell_absent(code: int) -> None:
    """Tell the others of this job, who wait for this process, that it ended with ``code`` before it met them."""
    if not started_together() or _meetings[0]:
        return
    hush()

    def tell() -> None:
        with suppress(Exception):  # nobody may be there to be told
            at = place()
            if not at.hosts:
                Arrivals(connect(at, _ABSENT, 1), at).say(f"exit code {code}")

    telling = Thread(target=tell, daemon=True)
    telling.start()
    telling.join(_ABSENT)

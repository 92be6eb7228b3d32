"""Signs of life of the processes of one job, so that none waits for one that is gone.

A thread tells the store every second that this process lives, and reads what the others told. Another one looks how long
each has been silent, and ends this process where one was for too long: whatever it waits for will never come.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from collapsekit.distributed.rendezvous import HINT, Arrivals, Place
from collapsekit.errors import CollapsekitError, ConfigError, ProcessLostError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

SECONDS = 45.0  # of silence, after which a process is taken to be gone
_GRACE = 10.0  # seconds to end by oneself once another one has said that it failed
_LEAVING = 5.0  # seconds the store is kept for others to read why its process failed
_TELLING = 2.0  # seconds for the store to take what this process says of its end
_POLL = 0.05
_LEFT = "left"
BEFORE_END: list[Callable[[int], object]] = []  # called with the exit code where a watch ends its process


class Heartbeat:
    """One process's watch over the others, from before they meet until they part."""

    def __init__(self, at: Place, limit: float, connect: Callable[[], Store], *, met: bool = False) -> None:
        self.at, self.limit = at, limit
        self.interval = min(1.0, limit / 10)
        self._connect, self._skip = connect, met
        self._state: Any = "alive"
        self._said: Any = None  # the state that the store has
        self._own: CollapsekitError | None = None  # what this process ends with
        self._broken = False
        self._beats = 0
        self._silent = dict.fromkeys((r for r in range(at.size) if r != at.rank), 0.0)  # seconds, by process
        self._heard: dict[int, str] = {}
        self._told: dict[int, Any] = {}  # by process: how it ended
        self._round = 0.0  # seconds since the store last answered
        self._changed, self._stop = threading.Condition(), threading.Event()
        self._failed: Exception | None = None
        self._met = False
        self._arrivals: Arrivals | None = None
        self.store: Store | None = None

    # -- meeting -------------------------------------------------------------------------------------------------------

    def meet(self, limit: float) -> None:
        """Wait until all have come. Raises ConfigError where they have not within ``limit`` seconds, or cannot."""
        threading.Thread(target=self._work, name="collapsekit heartbeat", daemon=True).start()
        deadline = time.monotonic() + limit
        with self._changed:
            while not self._met and self._failed is None:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    break
        if self._met:
            threading.Thread(target=self._judge, name="collapsekit watch", daemon=True).start()
            return
        self._stop.set()
        if isinstance(self._failed, ConfigError):
            if self.at.hosts:
                time.sleep(20 * _POLL)  # so that the others see it too
            raise self._failed
        if self._failed is not None or self._arrivals is None:
            raise ConfigError(
                f"{self.at} found no others at {self.at.address}:{self.at.port} within {limit:g} s: "
                f"look whether process 0 failed or another program listens there; {HINT}."
            )
        why = (
            f"{self._arrivals.missing()} did not come within {limit:g} s (COLLAPSEKIT_RENDEZVOUS_TIMEOUT): see what was "
            f"printed there; {HINT}."
        )
        if self.at.hosts:
            self._arrivals.give_up(why)
            time.sleep(20 * _POLL)
        raise ConfigError(why)

    def _work(self) -> None:
        """What talks with the store, which may keep it waiting for ever."""
        try:
            self.store = self._connect()
            if not self._skip:
                self._arrivals = Arrivals(self.store, self.at)
                self._arrivals.say()
                while not self._arrivals.complete():
                    if self._stop.wait(_POLL):
                        return
            self._beat(self.store)
        except Exception as e:  # noqa: BLE001 - told by who waits
            with self._changed:
                self._failed = e
                self._changed.notify_all()
            return
        with self._changed:
            self._met = True
            self._changed.notify_all()
        while not self._stop.is_set():
            try:
                self._beat(self.store)
            except Exception:  # noqa: BLE001 - the store is silent, which is looked at elsewhere
                if self._state != "alive":
                    self._stop.set()  # nobody is left to be told
            with self._changed:
                self._changed.wait(self.interval if self._state == "alive" else _POLL)

    def _beat(self, store: Store) -> None:
        """Tell, and hear what the others told."""
        with self._changed:
            state = self._state
        self._beats += 1
        store.set(f"beat/{self.at.rank}", json.dumps([state, self._beats], allow_nan=False))
        ranks = [r for r in self._silent if r in self._heard or store.check([f"beat/{r}"])]
        heard = store.multi_get([f"beat/{r}" for r in ranks]) if ranks else []
        with self._changed:
            self._round = 0.0
            for rank, text in zip(ranks, (h.decode() for h in heard), strict=True):
                if self._heard.get(rank) != text:
                    self._heard[rank], self._silent[rank] = text, 0.0
                    how, _ = json.loads(text)
                    if how != "alive":
                        self._told[rank] = how
            self._said = state
            if state != "alive" and (not self.at.hosts or all(rank in self._told for rank in self._silent)):
                self._stop.set()  # what this process said is kept elsewhere, or no longer needed
            self._changed.notify_all()

    # -- watching ------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """End this process where another one was silent for too long, or has failed and this one goes on."""
        last, waiting = time.monotonic(), 0.0
        while not self._stop.wait(self.interval):
            now = time.monotonic()
            with self._changed:
                passed, last = self.count(now - last), now
                waiting += passed if self._failures() or self._own else 0.0
                error = self._longest_silence()
                if error is not None and self._state != "alive":  # whoever it is need not be told any more
                    self._stop.set()
                    return
                self._changed.notify_all()
            if waiting > _GRACE:
                error = error or self._own or self._failure()
            if error is not None:
                _end(self.at.rank, error)

    def count(self, passed: float) -> float:
        """Add to how long each was silent; the seconds that count. What this process itself slept through counts for
        little: then it was stopped, or its machine was."""
        passed = min(passed, 2 * self.interval)
        self._round += passed
        for rank in self._heard if self._skip else self._silent:
            self._silent[rank] += 0.0 if rank in self._told else passed
        return passed

    def _longest_silence(self) -> CollapsekitError | None:
        """Who has been silent for too long; the store's process first, as without it nobody is heard."""
        host = self.at.host if self.at.host != self.at.rank else None
        if self._round >= self.limit:
            if host is not None:
                return self._lost(host, self._round) if self._told.get(host) != _LEFT else None
            if self.at.host is None:
                return ProcessLostError(
                    f"{self.at} had no answer for {self._round:.0f} s from the store that all processes share: the "
                    "launcher that keeps it is gone, or was stopped; start all of them again."
                )
        rank, silent = max(self._silent.items(), key=lambda each: each[1], default=(0, 0.0))
        return self._lost(rank, silent) if silent >= self.limit else None

    def _lost(self, rank: int, silent: float) -> ProcessLostError:
        return ProcessLostError(
            f"process {rank} of {self.at.size} has not answered for {silent:.0f} s (COLLAPSEKIT_HEARTBEAT_TIMEOUT): it was "
            "stopped, or its machine is gone; see what it printed, and start all of them again."
        )

    # -- how others ended ----------------------------------------------------------------------------------------------

    def _failures(self) -> dict[int, Mapping[str, str]]:
        return {rank: how for rank, how in self._told.items() if how != _LEFT}

    def _failure(self) -> CollapsekitError | None:
        return _first_error(self._failures(), self.at.size)

    def failure(self) -> CollapsekitError | None:
        """Return the error that another process said it ended with, where one does within a moment. Asked for by who has
        lost touch: parting, it waits for nobody any more."""
        with self._changed:
            self._broken = True
            self._changed.wait_for(lambda: bool(self._failures()), 3 * self.interval + 0.5)
            return self._failure()

    # -- parting -------------------------------------------------------------------------------------------------------

    def tell(self, error: BaseException | None) -> None:
        """Say that this process is done, or with what ``error`` it ends."""
        how: Any = _LEFT
        if error is not None:
            text = (
                str(error) if isinstance(error, CollapsekitError) else f"{type(error).__name__}: {error}".rstrip(": ")
            )
            self._own = error if isinstance(error, CollapsekitError) else ProcessLostError(text)
            how = {"kind": type(error).__name__, "text": text[:2000]}
            if self._own.relayed:
                how["relayed"] = "yes"
        with self._changed:
            self._state = how
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._said == how, _TELLING)

    def part(self) -> None:
        """Wait for the others where the store lives in this process: until all are done, or have said that they failed;
        after an error here, only until they can have read of it."""
        patient = self.at.hosts and self._own is None and self._said == _LEFT and not self._broken
        limit = None if patient else _LEAVING
        self._stop.wait(limit)
        self._stop.set()


def _end(rank: int, error: CollapsekitError) -> NoReturn:
    """End this process, whose other thread may wait within torch for ever, which nothing interrupts."""
    for tell in BEFORE_END:
        with contextlib.suppress(Exception):
            tell(error.exit_code)
    with contextlib.suppress(Exception):
        own = f" of process {rank}" if rank else ""
        text = "".join(c if c.isprintable() else "?" for c in str(error))
        sys.stderr.write(f"error{own}: {text}\n")
        sys.stderr.flush()
    os._exit(error.exit_code)


def _first_error(failures: Mapping[int, Mapping[str, str]], size: int) -> CollapsekitError | None:
    """What the process ended with that failed itself, of ``size`` ones; others may have ended because of it, with its words
    in theirs."""
    from collapsekit import errors

    for rank, how in sorted(failures.items(), key=lambda each: ("relayed" in each[1], each[0])):
        kind = getattr(errors, how["kind"], None)
        known = isinstance(kind, type) and issubclass(kind, CollapsekitError)
        made: CollapsekitError = kind(how["text"]) if known and kind is not None else ProcessLostError(how["text"])
        made.args = (how["text"] if "relayed" in how else f"process {rank} of {size} failed: {how['text']}",)
        made.relayed = True
        return made
    return None

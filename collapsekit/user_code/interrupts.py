"""Whether somebody pressed Ctrl-C, told by the signal: a KeyboardInterrupt anybody can raise, and anybody can swallow."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 0.5  # s: what comes sooner is the same key press, once from the terminal and once from the parent process


class Interrupts:
    """A handler of SIGINT that remembers it. Then it raises KeyboardInterrupt, or does what the handler before it did."""

    def __init__(self) -> None:
        self.seen = False
        self.instead: Callable[[], None] | None = None  # what to do where nobody would catch a KeyboardInterrupt
        self._before: Any = None
        self._last = float("-inf")

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        repeated = now - self._last < AGAIN
        self.seen, self._last = True, now
        if self.instead is not None:
            self.instead()
        elif not repeated:
            self._before(number, frame)

    def listen(self) -> bool:
        """Become the handler, in the main thread and where the signal is not ignored."""
        self._before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(self._before):
            return False
        signal.signal(signal.SIGINT, self)
        return True

    def once_more(self) -> None:
        """Have what Python cannot raise raised a moment later: a KeyboardInterrupt in ``__del__`` or in the callback of a
        weak reference, which would be printed as a traceback, and go on."""
        before = sys.unraisablehook

        def hook(unraisable: sys.UnraisableHookArgs) -> None:
            if unraisable.exc_type is not KeyboardInterrupt or not self.seen:
                before(unraisable)
                return
            self._last = float("-inf")
            later = threading.Timer(0.05, _thread.interrupt_main)
            later.daemon = True
            later.start()

        sys.unraisablehook = hook


_LASTING = [Interrupts()]  # the command line's


def listen() -> Interrupts:
    """Return what the command line remembers SIGINT with, from here until the process ends."""
    _LASTING[0] = Interrupts()
    if _LASTING[0].listen():
        _LASTING[0].once_more()
    return _LASTING[0]


def interrupted() -> bool:
    """Tell whether the command line got a SIGINT."""
    return _LASTING[0].seen


def check() -> None:
    """Raise KeyboardInterrupt where the command line got a SIGINT, which somebody must have swallowed."""
    if interrupted():
        raise KeyboardInterrupt


@contextmanager
def instead(act: Callable[[], None]) -> Iterator[None]:
    """Do ``act`` where the command line gets a SIGINT during the block, and remember it; nothing is raised."""
    lasting = _LASTING[0]
    lasting.instead = act
    try:
        yield
    finally:
        lasting.instead = None


@contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Give ``seen()``: whether a SIGINT came, during the block or, where one listens already, before."""
    before = signal.getsignal(signal.SIGINT)
    if isinstance(before, Interrupts):
        yield lambda: before.seen
        return
    own = Interrupts()
    became = own.listen()
    try:
        yield lambda: own.seen or interrupted()
    finally:
        if became and signal.getsignal(signal.SIGINT) is own:
            signal.signal(signal.SIGINT, before)

"""What a read does beside its result: audit events, memory, time, the canary."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tests.hostile.forks import FORKS

SECONDS = 10.0  # of computing, a file
PATIENCE = 300.0  # seconds by the clock, after which something waits for ever
GIGABYTE = 1 << 20  # in units of ru_maxrss, KiB

_TOLD = ("exec", "compile", "import", "open", "pickle.find_class", "code.__new__", "function.__new__", "builtins.input")
_TOLD_PREFIXES = (
    "socket.",
    "subprocess.",
    "ctypes.",
    "shutil.",
    "marshal.",
    "os.",
    "pty.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
    "tempfile.",
    "signal.",
    "sys.add",
    "sys.set",
    "mmap.",
)
# Looking is allowed: these change nothing outside the process.
_LOOKING = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "signal.setitimer", "mmap.__new__")
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Watch:
    """One read: the events that may not happen, each as (event, arguments), and what it cost."""

    events: list[tuple[str, str]] = field(default_factory=list)
    started: list[list[str]] = field(default_factory=list)  # command lines of processes
    seconds: float = 0.0  # of computing, by this process and its children: a busy machine does not add to them
    grown: int = 0  # KiB, of this process's peak
    children: int = 0  # KiB, the largest child of this process so far


_current: Watch | None = None
_installed = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    watch = _current
    if watch is None or not (event in _TOLD or event.startswith(_TOLD_PREFIXES)) or event in _LOOKING:
        return
    if event == "open" and not _writes(*args[:3]):
        return
    if event == "subprocess.Popen":
        watch.started.append([os.fsdecode(a) for a in args[1]])
    watch.events.append((event, repr(args)[:300]))


def _writes(path: Any, mode: Any, flags: Any) -> bool:
    if isinstance(path, int) or path == os.devnull:  # the pipe to the child, open already, and what stdin is for it
        return False
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(isinstance(flags, int) and flags & _WRITE_FLAGS)


def computed() -> float:
    """CPU seconds of this process, of its children that have ended, and of readers that were forked."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each) + FORKS.seconds


@contextmanager
def watched() -> Iterator[Watch]:
    """Records while the block runs. The hook itself stays for as long as the process lives: it cannot be removed."""
    global _current, _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    watch = Watch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = computed()
    _current = watch
    try:
        yield watch
    finally:
        _current = None
        watch.seconds = computed() - start
        watch.grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        watch.children = max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, FORKS.peak)


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Ends a block that waits for ever, as one that opens a pipe would, with a TimeoutError."""

    def ring(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def largest_allowed() -> int:
    """KiB that the children of this process may have had at most: a child counts, for the moment between fork and
    exec, as large as its parent was."""
    return max(GIGABYTE, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

"""A user's functions run in a child process, whose parent holds the exit code: what they do to their process passes nothing.

The child tells its code once all is computed and written, before it prints. Where it ends without having told one, whatever
its exit status, the parent's code is 4.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from collapsekit.cli import output
from collapsekit.cli.output import INTERNAL, INTERRUPTED
from collapsekit.user_code import interrupts

_LENGTH = 17  # bytes of what is told: 16 drawn by the parent, then the code
_PASSED_ON = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class ChildEndedError(Exception):
    """Raised in the parent once the child has ended; ``code`` is the exit code of both."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Roles:
    """Whether this process may start a child, or is one."""

    def __init__(self) -> None:
        self.arguments: list[str] | None = None  # of the command line, where this is the real one
        self.command_line: Callable[[list[str]], object] | None = None  # what runs them
        self.tell: Callable[[bytes], object] | None = None  # of a child
        self.pid = 0  # a child's own
        self.word = b""
        self.child_decided = False  # whether a child of this process told its exit code

    def start_child(self) -> None:
        """Go on in a child process, from here. In the parent it raises :class:`ChildEndedError` when the child has ended.

        Nothing happens in a child, or where a program of another's runs the command.
        """
        if self.arguments is None or self.tell is not None:
            return
        self.word = os.urandom(_LENGTH - 1)
        if hasattr(signal, "SIGCHLD"):  # who started this may have it ignored: then nobody could wait for the child
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A process that has threads must not fork. On macOS the system's own libraries forbid it.
        plain = sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules
        (self._fork if plain else self._spawn)()

    def decide(self, code: int) -> None:
        """Tell the parent the exit code."""
        if self.tell is not None and os.getpid() == self.pid:  # not of a copy that a user's function forked
            with contextlib.suppress(
                OSError, ValueError
            ):  # closed by a user's function: the parent then has heard nothing
                self.tell(self.word + bytes([code]))

    def _fork(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent, (reading, writing) = os.getpid(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _die_with(parent)
            self.become_child(lambda data: os.write(writing, data), self.word)
            return
        os.close(writing)
        with _passing_on(pid) as passed:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.set_blocking(reading, False)  # a process that the child left behind may hold the other end
        told = b""
        with contextlib.suppress(BlockingIOError):
            told = os.read(reading, _LENGTH)
        os.close(reading)
        self._end(told, status, passed)

    def _spawn(self) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        reading, writing = context.Pipe(duplex=False)
        process = context.Process(target=_spawned, args=(self.command_line, self.arguments, writing, self.word))
        process.start()
        writing.close()
        assert process.pid is not None
        with _passing_on(process.pid) as passed:
            process.join()
        told = b""
        with contextlib.suppress(EOFError, OSError):
            told = reading.recv_bytes() if reading.poll() else b""
        assert process.exitcode is not None
        self._end(told, process.exitcode, passed)

    def become_child(self, tell: Callable[[bytes], object], word: bytes) -> None:
        """Make this process a child, which has a parent to tell from here on."""
        from collapsekit.distributed import heartbeat  # most commands have no child, and do not wait for it

        self.tell, self.word, self.pid = tell, word, os.getpid()
        heartbeat.BEFORE_END.append(self.decide)
        output.keep_apart_below()

    def _end(self, told: bytes, status: int, passed: set[int]) -> None:
        if -status in passed:  # end as the child did
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        self.child_decided = bool(told)
        code = told[-1] if len(told) == _LENGTH and told.startswith(self.word) else None
        raise ChildEndedError(settle(code, status, interrupts.interrupted()))


def settle(told: int | None, status: int, interrupted: bool) -> int:
    """Decide the exit code of a command whose child has ended; print why where the child gave none, or ended badly.

    Args:
        told: The exit code that the child told; None where it told none.
        status: How the child's process ended: its exit code, or minus the number of the signal that killed it.
        interrupted: Whether the user interrupted this process.

    Returns:
        The child's code, or 130 after an interrupt, or 4 where no verdict came or the process failed after one.
    """
    if interrupted or status in (INTERRUPTED, -signal.SIGINT):
        return INTERRUPTED
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
    if told is None:
        output.message(
            f"error: the process that runs your code {how} and gave no verdict: look for what ends a process or closes "
            "its files there (os._exit, say), or, where it was killed, whether memory was short."
        )
        return INTERNAL
    if told == 0 and status != 0:
        if status != INTERNAL:  # which says itself what happened
            output.message(f"error: the process that runs your code {how} after its verdict, so this is no pass.")
        return INTERNAL
    return told


def _spawned(command_line: Callable[[list[str]], object], arguments: list[str], connection: Any, word: bytes) -> None:
    """What a child does that begins anew."""
    threading.Thread(target=_watch_parent, daemon=True).start()
    ROLES.become_child(connection.send_bytes, word)
    command_line(arguments)


def _watch_parent() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(INTERNAL)


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent is gone, however that happens."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(INTERNAL)


@contextlib.contextmanager
def _passing_on(pid: int) -> Iterator[set[int]]:
    """Signals that this process gets go to the child too; which they were."""
    passed: set[int] = set()

    def send(number: int, _: object = None) -> None:
        passed.add(number)
        with contextlib.suppress(OSError):
            os.kill(pid, number)

    before = {}
    for name in _PASSED_ON:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, send)
    with interrupts.instead(lambda: send(signal.SIGINT)):
        try:
            yield passed
        finally:
            passed.discard(signal.SIGINT)
            for number, handler in before.items():
                signal.signal(number, handler)


ROLES = Roles()

"""Readers forked from one that has imported what it needs, since a reader's start takes longer than most of its reading."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from collapsekit.checkpoint import sandbox

# For each line on stdin, a list of a reader's arguments, a fork reads as the process of its own would, within the same
# limits. Its exit code, seconds and peak of memory come back, and how many bytes it wrote on stdout and stderr; then these.
_SERVE = """
import json, os, selectors, sys
sys.path.insert(0, sys.argv[1])
from collapsekit.checkpoint.formats.worker import main

control = os.fdopen(os.dup(1), "wb")
for line in os.fdopen(os.dup(0), "rb", 0):
    memory, seconds, path = json.loads(line)
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, (reading, writing) in enumerate(pipes, 1):
                os.dup2(writing, number)
            os.closerange(3, 64)
            main(memory, seconds, os.fsdecode(bytes.fromhex(path)))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    said = [b"", b""]
    with selectors.DefaultSelector() as ready:
        for number, (reading, writing) in enumerate(pipes):
            os.close(writing)
            ready.register(reading, selectors.EVENT_READ, number)
        while ready.get_map():
            for key, _ in ready.select():
                more = os.read(key.fd, 1 << 20)
                said[key.data] += more
                if not more:
                    ready.unregister(key.fd)
                    os.close(key.fd)
    _, status, usage = os.wait4(child, 0)
    told = [os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss, *map(len, said)]
    control.write(json.dumps(told).encode() + b"\\n" + said[0] + said[1])
    control.flush()
"""


class Forks:
    """Stands in for ``subprocess`` in the sandbox, for readers only; what they took is added up."""

    TimeoutExpired = subprocess.TimeoutExpired
    DEVNULL = subprocess.DEVNULL

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak = 0  # KiB
        self._server: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start the process that forks, where there is none."""
        if self._server is None:
            command = [sys.executable, "-I", "-c", _SERVE, str(sandbox._PACKAGE_FOLDER)]
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )

    def run(self, command: list[Any], *, timeout: float, **how: Any) -> subprocess.CompletedProcess[bytes]:
        """What the reader's process ended with."""
        memory, cpu, path = command[5:]
        assert command[:5] == [sys.executable, "-I", "-c", sandbox._PROGRAM, sandbox._PACKAGE_FOLDER]
        if b"\0" in path:
            return subprocess.run(command, timeout=timeout, **how)
        sys.audit("subprocess.Popen", command[0], command, None, None)
        assert self._server is not None
        asked, told = self._server.stdin, self._server.stdout
        assert asked is not None
        assert told is not None
        asked.write(json.dumps([int(memory), int(cpu), path.hex()]).encode() + b"\n")
        asked.flush()
        if not select.select([told], [], [], timeout)[0]:
            self.end()
            raise subprocess.TimeoutExpired(command, timeout)
        code, seconds, peak, out, err = json.loads(told.readline())
        self.seconds += seconds
        self.peak = max(self.peak, peak)
        return subprocess.CompletedProcess(command, code, told.read(out), told.read(err))

    def end(self) -> None:
        """End the process that forks, and what it forked."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.communicate()
            self._server = None


FORKS = Forks()


@contextmanager
def fork_readers() -> Iterator[None]:
    """Readers are forks of one process, which stays for the next time."""
    FORKS.begin()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "subprocess", FORKS)
        yield

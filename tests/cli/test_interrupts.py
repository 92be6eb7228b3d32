"""Ctrl-C where Python can raise nothing: in the callback of a weak reference, in ``__del__``."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, time, weakref
from collapsekit.user_code import interrupts

class Thing:
    def __del__(self):
        if {finaliser}:
            os.kill(os.getpid(), signal.SIGINT)

interrupts.listen()
thing = Thing()
kept = weakref.ref(thing, lambda _: None if {finaliser} else os.kill(os.getpid(), signal.SIGINT))
try:
    del thing
    for _ in range(200):
        time.sleep(0.05)
except KeyboardInterrupt:
    print("interrupted", interrupts.interrupted())
"""


@pytest.mark.parametrize("finaliser", [True, False])
def test_an_interrupt_in_a_finaliser_is_raised_later_and_prints_nothing(finaliser: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(finaliser=finaliser)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted True\n", "")


def test_other_errors_there_are_shown_as_before() -> None:
    program = "from collapsekit.user_code import interrupts; interrupts.listen()\n"
    program += "class Thing:\n    def __del__(self): raise ValueError('shown')\nThing()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "ValueError: shown" in done.stderr

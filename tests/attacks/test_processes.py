"""What a user's functions, or who starts a command, may do to its process: a failure that was decided stays one, and nothing
passes without a verdict."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tests.cli.test_child import PROGRAM, variables

WAYS = """
def in_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()

class Dying:
    def __init__(self, act):
        self.act = act
    def __del__(self):
        self.act()

def leave_by_alarm():
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(5)

def alarmed():
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(5)

def busy():
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
    while True:
        pass

def parent_goes():
    if os.fork():
        os._exit(0)

def recursion():
    return recursion()

def deep():
    sys.setrecursionlimit(10**6)
    recursion()

def limited(what, size):
    import resource
    resource.setrlimit(getattr(resource, what), (size, size))

def handlers():
    for number in range(1, 32):
        try:
            signal.signal(number, lambda *_: os._exit(0))
        except (OSError, ValueError):
            pass

def hooks():
    sys.excepthook = sys.unraisablehook = threading.excepthook = lambda *_: os._exit(0)

def coroutine():
    import asyncio
    async def leave():
        sys.exit(0)
    asyncio.run(leave())

def pooled():
    from concurrent.futures import ThreadPoolExecutor
    ThreadPoolExecutor(1).submit(sys.exit, 0).result()

def worker():
    import multiprocessing
    process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(0,))
    process.start()
    process.join()

def interrupted_by_itself():
    import _thread
    _thread.interrupt_main()
    time.sleep(0.05)

def gone_folder():
    folder = os.path.join(os.getcwd(), f"gone{os.getpid()}")
    os.mkdir(folder)
    os.chdir(folder)
    os.rmdir(folder)

def raising(error):
    raise error

def dropped():
    def numbers():
        try:
            yield 1
        finally:
            sys.exit(0)
    made = numbers()
    next(made)
    made.close()

def traced():
    sys.settrace(lambda *_: sys.exit(0))
    (lambda: None)()

def replaced():
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)

def every_pipe():
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3, 30):
        if number != null:
            os.dup2(null, number)

DOES.update({
    "exit in a thread": lambda: in_thread(lambda: sys.exit(0)),
    "_exit in a thread": lambda: in_thread(lambda: os._exit(0)),
    "exit in __del__": lambda: Dying(lambda: sys.exit(0)),
    "_exit in __del__": lambda: Dying(lambda: os._exit(0)),
    "exit in a handler": leave_by_alarm,
    "an alarm": alarmed,
    "too much computing": busy,
    "two of it": lambda: os.fork(),
    "the parent goes": parent_goes,
    "recursion": recursion,
    "recursion past the stack": deep,
    "no memory": lambda: raising(MemoryError()),
    "little memory": lambda: (limited("RLIMIT_AS", 1 << 20), bytearray(1 << 28)),
    "no files": lambda: limited("RLIMIT_NOFILE", 3),
    "no bytes": lambda: limited("RLIMIT_FSIZE", 0),
    "handlers of all signals": handlers,
    "hooks": lambda: (hooks(), Dying(lambda: 1 / 0), in_thread(lambda: 1 / 0)),
    "hooks and an error": lambda: (hooks(), raising(ValueError("x"))),
    "exit in a coroutine": coroutine,
    "exit in a pool": pooled,
    "exit in a worker": worker,
    "interrupted by itself": interrupted_by_itself,
    "the folder goes": gone_folder,
    "no variables": os.environ.clear,
    "no modules": sys.modules.clear,
    "StopIteration": lambda: raising(StopIteration()),
    "GeneratorExit": lambda: raising(GeneratorExit()),
    "RecursionError": lambda: raising(RecursionError()),
    "a group with an exit": lambda: raising(BaseExceptionGroup("x", [SystemExit(0)])),
    "exit as a generator closes": dropped,
    "exit as it is traced": traced,
    "quit": lambda: quit(),
    "exit of text": lambda: sys.exit("done"),
    "exit of nothing": lambda: sys.exit(),
    "exit of False": lambda: sys.exit(False),
    "exit at exit": lambda: atexit.register(sys.exit, 0),
    "exec at exit": lambda: atexit.register(os.execv, "/bin/true", ["true"]),
    "exec of a shell": lambda: os.execvp("sh", ["sh", "-c", "exit 0"]),
    "stopped by SIGTERM": lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(5)),
    "SIGPIPE": lambda: (signal.signal(signal.SIGPIPE, signal.SIG_DFL), os.kill(os.getpid(), signal.SIGPIPE)),
    "the group is killed": lambda: (os.setpgid(0, 0), os.kill(0, signal.SIGKILL)),
    "the parent is stopped": lambda: (os.kill(os.getppid(), signal.SIGTERM), time.sleep(5)),
    "the parent is killed": lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(5)),
    "other streams": replaced,
    "other pipes": every_pipe,
    "streams closed": lambda: [os.close(n) for n in (0, 1, 2)],
    "streams of None": lambda: [setattr(sys, n, None) for n in ("stdin", "stdout", "stderr")],
    "stdout deleted": lambda: delattr(sys, "stdout"),
    "a debugger": lambda: breakpoint(),
    "a question": lambda: input(),
    "PYTHONINSPECT": lambda: os.environ.update(PYTHONINSPECT="1"),
    "warnings are errors": lambda: __import__("warnings").simplefilter("error"),
})
if __name__ == "__main__":"""
# Of these the functions come to their end, so that what is decided stands.
GO_ON = {
    *("exit in a thread", "exit in __del__", "two of it", "no files", "handlers of all signals", "exit in a worker"),
    *("the folder goes", "no variables", "exit at exit", "exec at exit", "other streams", "streams of None"),
    *("stdout deleted", "PYTHONINSPECT", "warnings are errors", "no modules", "streams closed", "no bytes"),
}
NAMES = [line.strip().split('"')[1] for line in WAYS.splitlines() if line.startswith('    "')]
CHEAP = {"the parent goes", "exit as a generator closes", "other pipes", "exec at exit", "_exit in __del__"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attacks") / "program.py"
    path.write_text(PROGRAM.replace('if __name__ == "__main__":', WAYS, 1))
    return path


def ended(program: Path, how: str, code: int, before: Callable[[], object] = lambda: None) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, program, "doctor"],
        cwd=program.parent,
        env={**variables(how, code, False), "PYTHONFAULTHANDLER": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        preexec_fn=before,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("how", [pytest.param(n, marks=() if n in CHEAP else pytest.mark.slow) for n in NAMES])
def test_a_failure_stays_one(program: Path, how: str) -> None:
    code, said = ended(program, how, 1)
    assert code != 0, said


@pytest.mark.parametrize(
    "how", [pytest.param(n, marks=() if n in CHEAP else pytest.mark.slow) for n in NAMES if n not in GO_ON]
)
def test_nothing_passes_without_a_verdict(program: Path, how: str) -> None:
    code, said = ended(program, how, 0)
    assert code != 0, said


CLOSED = [c for n in range(1, 4) for c in product((0, 1, 2), repeat=n) if list(c) == sorted(set(c))]


@pytest.mark.parametrize("closed", [pytest.param(c, marks=() if c == (0, 1, 2) else pytest.mark.slow) for c in CLOSED])
def test_closed_streams_turn_no_failure(program: Path, closed: tuple[int, ...]) -> None:
    code, _ = ended(program, "nothing", 1, lambda: [os.close(n) for n in closed])
    assert code == 1


# What whoever starts the command may have set, and the exit codes where 0 and where 1 is decided.
STARTED: dict[str, tuple[Callable[[], object], int, int]] = {
    "children that nobody waits for": (lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN), 0, 1),
    "SIGINT is ignored": (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), 0, 1),
    "SIGTERM is ignored": (lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN), 0, 1),
    "SIGPIPE is ignored": (lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN), 0, 1),
    "all signals are held": (lambda: signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)), 0, 1),
    "files may have no bytes": (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)), 0, 1),
    "few files": (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)), 0, 1),
    "no core": (lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)), 0, 1),
    "a session of its own": (os.setsid, 0, 1),
    "the least priority": (lambda: os.nice(19), 0, 1),
    "no rights for new files": (lambda: os.umask(0o777), 0, 1),
}


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize(
    "how", [pytest.param(h, marks=() if h == "children that nobody waits for" else pytest.mark.slow) for h in STARTED]
)
def test_the_starting_process_does_not_change_the_exit_code(program: Path, how: str, code: int) -> None:
    before, *codes = STARTED[how]
    found, said = ended(program, "nothing", code, before)
    assert found == codes[code], said
    assert "Traceback" not in said

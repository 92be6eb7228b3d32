"""The process that runs a user's functions has a parent, which holds the exit code and passes nothing by accident."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collapsekit.cli.child import settle
from collapsekit.cli.output import INTERNAL, INTERRUPTED
from tests.cli.conftest import Run
from tests.cli.test_commands import small  # noqa: F401

# A command like any that runs a user's functions, without what they need torch for. HOW says what they do, CODE what is
# decided, SPAWN that the child begins anew, as where the system has no fork that may be used.
PROGRAM = '''
import atexit, ctypes, os, signal, sys, threading, time
import typer
import collapsekit.cli as cli
from collapsekit.cli import child, root, terminal
from collapsekit.cli.output import write
from collapsekit.errors import ConfigError, NothingEvaluatedError, RefusedError

HOW, CODE = os.environ["HOW"], int(os.environ["CODE"])
if os.environ.get("SPAWN"):
    child.Roles._fork = child.Roles._spawn

def forked():
    pid = os.fork()
    if pid == 0:
        time.sleep(100)  # holds every file open
    print(pid, file=sys.stderr, flush=True)

def swallow():
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except BaseException:
            pass

def turned():
    try:
        time.sleep(30)
    except BaseException:
        raise ValueError("stopped")

def chatter():
    print("from Python")
    os.system("echo from below")
    sys.__stdout__.write("past us\\n")
    sys.__stdout__.flush()
    atexit.register(print, "at last")

def alarm():
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    time.sleep(30)

def others():
    os.closerange(3, 100)
    for _ in range(20):
        os.open("junk", os.O_CREAT | os.O_RDWR)

def scribble():
    for n in range(3, 20):
        place = f"/proc/self/fd/{n}"
        if os.path.exists(place) and "pipe" in os.readlink(place):
            os.write(n, b"x" * 17)

def own_handler():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("told to stop", file=sys.stderr)))
    time.sleep(600)

def error(kind):
    raise kind("as it should")

DOES = {
    "nothing": lambda: None,
    "_exit": lambda: os._exit(0),
    "exit": lambda: exit(0),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "typer": lambda: (_ for _ in ()).throw(typer.Exit(0)),
    "base": lambda: (_ for _ in ()).throw(BaseException("odd")),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": lambda: os.abort(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "segfault": lambda: ctypes.string_at(0),
    "thread": lambda: (threading.Thread(target=os._exit, args=(0,)).start(), time.sleep(30)),
    "alarm": alarm,
    "atexit": lambda: atexit.register(os._exit, 0),
    "at exit 3": lambda: atexit.register(os._exit, 3),
    "close": lambda: os.closerange(3, 100),
    "close and open": others,
    "write": scribble,
    "fork": forked,
    "chatter": chatter,
    "config": lambda: error(ConfigError),
    "refused": lambda: error(RefusedError),
    "nothing there": lambda: error(NothingEvaluatedError),
    "fault": lambda: error(ValueError),
    "wait": lambda: time.sleep(600),
    "own handler": own_handler,
    "killed late": lambda: None,
    "swallow": swallow,
    "turned": turned,
    "ignore": lambda: (signal.signal(signal.SIGINT, signal.SIG_IGN), time.sleep(0.7)),
    "late": lambda: None,
}

def show():
    if HOW == "killed late":
        os.kill(os.getpid(), signal.SIGKILL)
    write("data\\n")
    if HOW == "late":
        print("waiting", file=sys.stderr, flush=True)
        time.sleep(30)

@terminal.guarded
def doctor():
    """Stands in for a command."""
    child.ROLES.start_child()
    print("ready", file=sys.stderr, flush=True)
    DOES[HOW]()
    return terminal.Ended(CODE, show)

import collapsekit.cli.commands.doctor
collapsekit.cli.commands.doctor.doctor = doctor
if __name__ == "__main__":
    cli.main()
'''


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("child") / "program.py"
    path.write_text(PROGRAM)
    return path


def variables(how: str, code: int, spawn: bool) -> dict[str, str]:
    return {**os.environ, "HOW": how, "CODE": str(code), "SPAWN": "1" if spawn else ""}


def ran(program: Path, how: str, code: int = 0, spawn: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, program, "doctor"],
        cwd=program.parent,
        env=variables(how, code, spawn),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# What a user's functions do, and the exit code where 0 and where 1 is decided.
ENDS = {
    "nothing": (0, 1),
    "_exit": (4, 4),
    "exit": (2, 2),
    "interrupt": (2, 2),
    "typer": (2, 2),
    "base": (2, 2),
    "kill": (4, 4),
    "abort": (4, 4),
    "exec": (4, 4),
    "segfault": (4, 4),
    "thread": (4, 4),
    "alarm": (4, 4),
    "atexit": (0, 1),
    "at exit 3": (4, 1),
    "killed late": (4, 1),
    "close": (4, 4),
    "close and open": (4, 4),
    "write": (4, 4),
    "config": (2, 2),
    "refused": (3, 3),
    "nothing there": (5, 5),
    "fault": (4, 4),
}


FAILURES = [
    pytest.param(1, how, marks=() if how in ("atexit", "at exit 3", "killed late") else pytest.mark.slow)
    for how in ENDS
]


@pytest.mark.parametrize(("code", "how"), [*((0, how) for how in ENDS), *FAILURES])
def test_only_a_verdict_passes(program: Path, code: int, how: str) -> None:
    done, expected = ran(program, how, code), ENDS[how][code]
    assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr or how in ("fault", "abort", "segfault")
    if expected != code:
        said = [line for line in done.stderr.splitlines() if line.startswith(("error", "internal error"))]
        assert len(said) == (2 if how == "close" and code == 0 else 1), done.stderr  # that stdout is closed, too


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (0, "nothing"),
        (0, "_exit"),
        (1, "atexit"),
        *(pytest.param(*p, marks=pytest.mark.slow) for p in ((1, "nothing"), (1, "kill"), (0, "refused"), (0, "exit"))),
    ],
)
def test_a_child_that_begins_anew_is_no_different(program: Path, code: int, how: str) -> None:
    assert ran(program, how, code, spawn=True).returncode == ENDS[how][code]


@pytest.mark.parametrize("spawn", [False, True])
def test_a_process_left_behind_holds_nobody_up(program: Path, spawn: bool) -> None:
    with subprocess.Popen(
        [sys.executable, program, "doctor"],
        cwd=program.parent,
        env=variables("fork", 1, spawn),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == "ready\n"
        left = int(running.stderr.readline())
        try:
            assert running.wait(timeout=60) == 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)


def test_stdout_carries_data_only(program: Path) -> None:
    done = ran(program, "chatter")
    assert (done.returncode, done.stdout) == (0, "data\n")
    for words in ("from Python", "from below", "past us", "at last"):
        assert words in done.stderr


def listening() -> None:
    """A run in a script's background has it ignore Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped(
    program: Path, how: str, number: int, whom: str = "parent", spawn: bool = False, word: str = "ready"
) -> tuple[int, str, list[int]]:
    """Exit code and stderr of a run that gets a signal while a user's functions run, and its processes."""
    with subprocess.Popen(
        [sys.executable, program, "doctor"],
        cwd=program.parent,
        env=variables(how, 0, spawn),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=listening,
        start_new_session=True,
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line == f"{word}\n":
                break
        time.sleep(0.1)
        listed = subprocess.run(
            ["ps", "-o", "pid=", "-s", str(running.pid)], capture_output=True, text=True, check=True
        )
        pids = [int(p) for p in listed.stdout.split()]
        (os.killpg if whom == "all" else os.kill)(running.pid, number)
        running.wait(timeout=60)
        try:
            assert all(gone(pid) for pid in pids)
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return running.returncode, running.stderr.read(), pids


@pytest.mark.parametrize("whom", ["parent", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("how", "word"),
    [("wait", "ready"), ("swallow", "ready"), ("turned", "ready"), ("ignore", "ready"), ("late", "waiting")],
)
def test_ctrl_c_is_130_wherever_it_lands(program: Path, how: str, word: str, whom: str) -> None:
    """In a function that waits, that swallows it, that makes another error of it, that ignores it, and in printing."""
    code, said, _ = stopped(program, how, signal.SIGINT, whom, word=word)
    assert code == INTERRUPTED, said
    assert "Traceback" not in said
    assert said.count("interrupted: ") == (0 if how in ("ignore", "late") else 1)


PRESSED = """
import os, signal, sys
from collapsekit.cli import main

class Pressed:
    # Ctrl-C while a module is imported
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Pressed())
main(["schema"])
"""


@pytest.mark.parametrize(
    "module",
    [
        "collapsekit.cli.output",
        "collapsekit.cli.overview",
        "typer",
        "collapsekit.cli.commands.schema",
        "collapsekit.report.diagnosis",
        "pydantic",
    ],
)
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRESSED, module],
        capture_output=True,
        text=True,
        preexec_fn=listening,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (INTERRUPTED, ""), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("spawn", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGTERM, "parent"), (signal.SIGKILL, "parent"), (signal.SIGINT, "all")]
)
def test_no_process_outlives_its_parent(program: Path, number: int, whom: str, spawn: bool) -> None:
    code, said, pids = stopped(program, "wait", number, whom, spawn)
    assert len(pids) >= 2
    assert code == (INTERRUPTED if number == signal.SIGINT else -number), said


def test_a_signal_reaches_what_handles_it(program: Path) -> None:
    code, said, _ = stopped(program, "own handler", signal.SIGTERM)
    assert code == 2
    assert "told to stop" in said


def gone(pid: int) -> bool:
    """Whether a process ends soon."""
    until = time.monotonic() + 30
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_exit_code_is_zero_only_where_the_child_reported_and_ended_with_zero(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of every way to end: 0 only where 0 was told, the child then ended with 0, and nobody pressed Ctrl-C."""
    for told, status, interrupted in itertools.product(
        (None, 0, 1, 2, 3, 4, 5, 130), (*range(6), 120, 130, -2, -9, -15), (False, True)
    ):
        code = settle(told, status, interrupted)
        assert (code == 0) == (told == 0 and status == 0 and not interrupted)
        if interrupted:
            assert code == INTERRUPTED
        elif told and status not in (130, -2):
            assert code == told
        elif status not in (130, -2):
            assert code in (0, INTERNAL)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_child_costs_little(program: Path) -> None:
    """CPU time of a run with a child beside one without."""

    def taken(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(5):
            subprocess.run(
                [sys.executable, program, *arguments],
                cwd=program.parent,
                env=variables("nothing", 0, False),
                capture_output=True,
                check=True,
            )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 5

    assert taken("doctor") - taken("doctor", "--help") < 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        ["gate", "ckpt.pt"],
        pytest.param(["diagnose", "--fail-on", "collapsed"], marks=pytest.mark.slow),
        pytest.param(["repair"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_whole_commands_pass_nothing(small: Path, process: Run, arguments: list[str]) -> None:  # noqa: F811
    """With a model whose forward ends the process."""
    (small / "leaves.py").write_text(
        "import os\nfrom tests.problems import Late\n\n"
        "class Leaves(Late):\n    def forward(self, **x):\n        print('in forward')\n        os._exit(0)\n\n"
        "def build():\n    return Leaves({'image': 5, 'audio': 4}, ignored=['audio'])\n"
    )
    text = (small / "collapsekit.yaml").read_text()
    line = text.splitlines()[0]
    (small / "collapsekit.yaml").write_text(text.replace(line, 'model: {factory: "leaves:build", checkpoint: ckpt.pt}'))
    done = process(*arguments, cwd=small, PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.returncode == INTERNAL, done.stderr
    assert done.stdout == ""
    assert "in forward" in done.stderr
    assert "gave no verdict" in done.stderr
    assert not (small / "collapsekit-report").exists()

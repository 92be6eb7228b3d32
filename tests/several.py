"""Several processes at one job, forked from one that has imported everything.

Process r runs ``collapsekit ARGS`` as torchrun would have it run, and leaves OUT/r.out, OUT/r.err, OUT/r.rc.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


class Starter:
    """A process that imports once, and forks what runs each job; so that no job waits for torch."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.several"],
            cwd=ROOT,
            # As a command has it that imports torch only once it knows of the others (rendezvous.hush).
            env={**os.environ, "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "FATAL"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that all of it can be ended at once
        )

    def run(
        self, size: int, folder: Path, *args: str, cwd: Path, timeout: float = 120, **env: str
    ) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of each of ``size`` processes that run ``collapsekit ARGS`` together."""
        folder.mkdir(parents=True, exist_ok=True)
        own = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            **env,
        }
        asked, told = self._process.stdin, self._process.stdout
        assert asked is not None
        assert told is not None
        print(json.dumps([size, str(folder), str(cwd), own, args]), file=asked, flush=True)
        if not select.select([told], [], [], timeout)[0]:
            self.end()
            raise TimeoutError(f"{args} took more than {timeout} s")
        assert told.readline() == "0\n"
        names = [(folder / f"{r}.rc", folder / f"{r}.out", folder / f"{r}.err") for r in range(size)]
        return [(int(rc.read_text()), out.read_text(), err.read_text()) for rc, out, err in names]

    def end(self) -> None:
        """End it, and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def _child(rank: int, size: int, folder: Path, args: list[str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    if size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    sys.argv = ["collapsekit", *args]
    from collapsekit.cli import run

    os._exit(run(args))


def _forked(rank: int, size: int, folder: Path, args: list[str]) -> int:
    child = os.fork()
    if child == 0:
        _child(rank, size, folder, args)
    return child


def _job(size: int, folder: Path, args: list[str]) -> None:
    from tests.conftest import joint_trained_briefly

    with joint_trained_briefly():
        children = [_forked(rank, size, folder, args) for rank in range(size)]
    victim = os.environ.get("KILL_RANK")
    if victim is not None:
        flag = folder / "now"
        deadline = time.monotonic() + 60
        while not flag.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(children[int(victim)], 9)
    for rank, child in enumerate(children):
        status = os.waitpid(child, 0)[1]
        (folder / f"{rank}.rc").write_text(str(os.waitstatus_to_exitcode(status)))


def _in(size: int, folder: str, cwd: str, env: dict[str, str], args: list[str]) -> None:
    """The job in its own directory and environment, which is those of this process from now on."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(cwd)
    sys.path[0] = cwd
    os.environ.clear()
    os.environ.update(env)
    _job(size, Path(folder), args)


def _serve() -> None:
    import torch
    import torch._dynamo  # which optimisers import

    import tests.conftest  # noqa: F401 - before the fork, as all of this, so that it is done once
    from collapsekit import registry

    registry.load_builtins()
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = os.fork()
        if job == 0:
            try:
                _in(*json.loads(line))
            except BaseException:  # noqa: BLE001 - the parent has to hear of it
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()

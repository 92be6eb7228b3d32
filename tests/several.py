"""Several processes at one job, forked from one that has imported everything: python -m tests.several N OUT ARGS...

Process r runs ``collapsekit ARGS`` as torchrun would have it run, and leaves OUT/r.out, OUT/r.err, OUT/r.rc.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def run(size: int, folder: Path, *args: str, cwd: Path, timeout: float = 120, **env: str) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each of ``size`` processes that run ``collapsekit ARGS`` together."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **env}
    subprocess.run(
        [sys.executable, "-m", "tests.several", str(size), str(folder), *args],
        cwd=cwd,
        env=own,
        timeout=timeout,
        check=True,
    )
    names = [(folder / f"{r}.rc", folder / f"{r}.out", folder / f"{r}.err") for r in range(size)]
    return [(int(rc.read_text()), out.read_text(), err.read_text()) for rc, out, err in names]


def _child(rank: int, size: int, folder: Path, args: list[str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    if size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    sys.argv = ["collapsekit", *args]
    from collapsekit.cli import main

    try:
        main()
    except SystemExit as e:
        sys.stdout.flush()
        os._exit(e.code if isinstance(e.code, int) else 1)
    os._exit(0)


def _forked(rank: int, size: int, folder: Path, args: list[str]) -> int:
    child = os.fork()
    if child == 0:
        _child(rank, size, folder, args)
    return child


def _main(size: int, folder: Path, args: list[str]) -> None:
    import torch

    import collapsekit.render
    import collapsekit.run  # noqa: F401 - before the fork, so that it is done once
    from tests.conftest import joint_trained_briefly

    torch.set_num_threads(1)
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


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

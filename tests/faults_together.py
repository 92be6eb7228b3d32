"""Several processes at one job, one of which fails: python -m tests.faults_together JSON, a list of [SIZE, FOLDER, FAULTS].

FAULTS: by rank, what goes wrong there and where: ``before`` they meet, in a ``piece``, in user code ``between`` pieces, or
``while`` the others wait in a collective of torch's; see ``fault``. Process r leaves FOLDER/r.rc and FOLDER/r.err; what
still runs after a while is killed, and its code is that of the kill.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from collapsekit.distributed.process_group import ProcessGroup, current, tell_absent, together
from collapsekit.errors import CollapsekitError, ConfigError
from tests.several import free_port

MOST = 60.0  # seconds after which a process hangs
AT_ONCE = 4


class Job:
    """What one process does."""

    def __init__(self, faults: dict[str, str]) -> None:
        self.faults = faults

    def fault(self, where: str) -> None:
        """What goes wrong there."""
        match self.faults.get(where):
            case None:
                return
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit 0":
                os._exit(0)
            case "error":
                raise ValueError("a cable was pulled")
            case "sentence":
                raise ConfigError("the config is not usable.")
            case "interrupt":
                raise KeyboardInterrupt
            case "group":  # no fault: as a program does that uses torch.distributed itself
                dist.init_process_group("gloo")
            case "compute":  # Python's own, for as long as three silences
                end = time.monotonic() + 3 * float(os.environ["COLLAPSEKIT_HEARTBEAT_TIMEOUT"])
                while time.monotonic() < end:
                    sum(i * i for i in range(1000))
            case "nap":  # stopped for less than that, and woken
                end = time.monotonic() + 0.3 * float(os.environ["COLLAPSEKIT_HEARTBEAT_TIMEOUT"])
                if os.fork() == 0:
                    parent = os.getppid()
                    time.sleep(max(0.0, end - time.monotonic()))
                    os.kill(parent, signal.SIGCONT)
                    os._exit(0)
                os.kill(os.getpid(), signal.SIGSTOP)

    def run(self) -> None:
        """Questions to all, user code, and a collective of torch's."""
        self.fault("before")
        if "twice" in self.faults:
            with together() as world:
                world.assert_same(0, "numbers")
        with together() as world:
            assert list(world.map(self.piece, range(2 * world.size))) == [i * i for i in range(2 * world.size)]
            self.fault("between")
            assert world.on_main(lambda: "asked") == "asked"
            self.collective(world)
            world.assert_same(1, "numbers")

    def piece(self, i: int) -> int:
        self.fault("piece")
        return i * i

    def collective(self, world: ProcessGroup) -> None:
        with current().in_touch():
            self.fault("while")
            held = torch.ones(2)
            dist.all_reduce(held)
            assert held.tolist() == [world.size] * 2


def one(rank: int, size: int, folder: Path, faults: dict[str, Any]) -> None:
    """What a process does until it ends, as the command line would end."""
    os.dup2(os.open(folder / f"{rank}.err", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    os.environ |= {"RANK": str(faults.get("rank", rank)), "WORLD_SIZE": str(faults.get("size", size))}
    code = 1
    try:
        if "usage" in faults:
            tell_absent(2)
            os._exit(2)
        Job(faults).run()
        code = 0
    except CollapsekitError as e:
        print(f"error: {e}", file=sys.stderr)
        code = e.exit_code
    except KeyboardInterrupt:
        code = 130
    except Exception as e:  # noqa: BLE001 - of the program
        print(f"internal: {e!r}", file=sys.stderr)
        code = 4
    finally:
        sys.stderr.flush()
        os._exit(code)


class Running:
    """The processes of one job."""

    def __init__(self, size: int, folder: Path, faults: dict[str, dict[str, Any]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.began, self.taken = folder, time.monotonic(), socket.socket()
        port = free_port()
        if any("taken" in f for f in faults.values()):
            self.taken.bind(("127.0.0.1", 0))
            self.taken.listen(8)
            port = self.taken.getsockname()[1]
        os.environ["MASTER_PORT"] = str(port)
        self.left: dict[int, int] = {}
        self.stopping = {int(rank) for rank, own in faults.items() if "stop" in own.values()}
        for rank in range(size):
            own = faults.get(str(rank), {})
            if "missing" in own:
                continue
            pid = os.fork()
            if pid == 0:
                one(rank, size, folder, own)
            self.left[pid] = rank

    def done(self) -> bool:
        """Whether all have ended that can; what is stopped is killed then, as is what hangs."""
        for pid, rank in list(self.left.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.end(pid, rank, status)
        hanging = time.monotonic() - self.began > MOST
        if hanging or set(self.left.values()) <= self.stopping:
            for pid, rank in list(self.left.items()):
                os.kill(pid, signal.SIGKILL)
                self.end(pid, rank, os.waitpid(pid, 0)[1])
        return not self.left

    def end(self, pid: int, rank: int, status: int) -> None:
        del self.left[pid]
        (self.folder / f"{rank}.rc").write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    coming, running = json.loads(sys.argv[1]), list[Running]()
    while coming or running:
        running = [job for job in running if not job.done()]
        while coming and len(running) < AT_ONCE:
            size, place, faults = coming.pop(0)
            running.append(Running(size, Path(place), faults))
        time.sleep(0.05)

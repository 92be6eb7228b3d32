"""How the processes of one job find one another: each says at a common store that it has come, and as which one."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from collapsekit.errors import ConfigError
from collapsekit.version import __version__

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun and its like set
SECONDS = 60.0  # to find one another
_HOSTED: dict[int, Store] = {}  # by port; until the process ends, as others may come to meet again before this one does
HINT = "start all of them by one command, such as torchrun --nproc-per-node N -m collapsekit diagnose"


@dataclass(frozen=True)
class Place:
    """What a process was told of the job it belongs to."""

    rank: int
    size: int
    address: str
    port: int
    host: int | None  # the process in which the store lives; None where that is the launcher, or somebody else

    @property
    def hosts(self) -> bool:
        """Whether the store lives in this process."""
        return self.host == self.rank

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size}"


def place() -> Place:
    """Return what the environment says. Raises ConfigError where it says less than it has to, or what cannot be."""
    lacking = [name for name in VARIABLES if not os.environ.get(name)]
    if lacking:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but {' and '.join(lacking)} "
            f"{'is' if len(lacking) == 1 else 'are'} not set: start with torchrun --nproc-per-node N "
            "-m collapsekit ..., or unset WORLD_SIZE."
        )
    found = {}
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        text = os.environ[name]
        if not text.isdecimal():
            raise ConfigError(f"{name} is {text!r}, expected a number: {HINT}.")
        found[name] = int(text)
    if found["RANK"] >= found["WORLD_SIZE"]:
        raise ConfigError(f"RANK is {found['RANK']}, expected one below WORLD_SIZE, {found['WORLD_SIZE']}: {HINT}.")
    host = None if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0
    return Place(found["RANK"], found["WORLD_SIZE"], os.environ["MASTER_ADDR"], found["MASTER_PORT"], host)


def seconds(name: str, default: float, chosen: float | None = None) -> float:
    """Read a limit in seconds.

    Args:
        name: the environment variable that holds it.
        default: where that is not set.
        chosen: what goes before both.

    Returns:
        The limit.

    Raises:
        ConfigError: where it is no positive number.
    """
    text = str(chosen) if chosen is not None else os.environ.get(name) or str(default)
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 86400 * 30:
        raise ConfigError(f"{name} is {text!r}, expected seconds: a positive number, such as {default:g}.")
    return found


def hush() -> None:
    """Silence torch, which tells of each attempt to connect by a stack trace: what is wrong is said by us, in a sentence.

    Only where torch is not imported yet, and nobody chose otherwise.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


def connect(at: Place, limit: float, meeting: int, *, again: bool = False) -> Store:
    """Connect to the store at which the job meets; may never return where something else listens there.

    The first process makes the store where no launcher has.

    Args:
        at: this process's place in the job.
        limit: seconds.
        meeting: which time the job meets, counted.
        again: whether this is a connection of its own to a store that is there.

    Returns:
        The store.

    Raises:
        ConfigError: where that cannot be.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    hosting = at.hosts and not again
    most = timedelta(seconds=limit)
    try:
        store = _HOSTED.get(at.port) if hosting else None
        if store is None:
            store = TCPStore(at.address, at.port, at.size, hosting, most, wait_for_workers=False, multi_tenant=hosting)
        if hosting:
            _HOSTED[at.port] = store
    except (RuntimeError, ValueError) as e:
        if hosting:
            raise ConfigError(
                f"{at} cannot listen at port {at.port} ({_first_line(e)}): set MASTER_PORT to one that is free."
            ) from None
        raise ConfigError(
            f"{at} found no others at {at.address}:{at.port} within {limit:g} s ({_first_line(e)}): {HINT}."
        ) from None
    # A launcher that starts all anew keeps its store.
    return PrefixStore(f"collapsekit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{meeting}", store)


class Arrivals:
    """Who has come, by what each said at the store."""

    def __init__(self, store: Store, at: Place) -> None:
        self.store, self.at = store, at
        self.here: set[int] = set()
        self._seen = 0

    def say(self, failed: str | None = None) -> None:
        """Say that this process has come; or that it ``failed`` before."""
        told = {"rank": self.at.rank, "size": self.at.size, "version": __version__, "failed": failed}
        self.store.set(f"arrival/{self.store.add('arrivals', 1)}", json.dumps(told, allow_nan=False))

    def give_up(self, why: str) -> None:
        """Have all who come, and who wait, end with this."""
        self.store.set("given up", why)

    def complete(self) -> bool:
        """Tell whether all are here. Raises ConfigError where one failed before or gave up, or is not of this job."""
        if self.store.check(["given up"]):
            raise ConfigError(self.store.get("given up").decode())
        while self.store.check([f"arrival/{self._seen + 1}"]):
            self._seen += 1
            self._take(json.loads(self.store.get(f"arrival/{self._seen}")))
        return len(self.here) == self.at.size

    def _take(self, arrival: dict[str, str | int | None]) -> None:
        rank, size, version, failed = arrival["rank"], arrival["size"], arrival["version"], arrival["failed"]
        if size != self.at.size:
            raise ConfigError(
                f"{self.at} met process {rank} of {size}: WORLD_SIZE must be the same for all, and MASTER_PORT no other "
                f"job's; {HINT}."
            )
        if failed is not None:
            raise ConfigError(
                f"process {rank} of {size} ended before the others met it ({failed}): see what it printed."
            )
        if version != __version__:
            raise ConfigError(
                f"process {rank} of {size} runs collapsekit {version}, this one {__version__}: install one."
            )
        if rank in self.here:
            raise ConfigError(
                f"two processes came as process {rank} of {size}: each must have a RANK of its own; {HINT}."
            )
        assert isinstance(rank, int)
        self.here.add(rank)

    def missing(self) -> str:
        """Return who has not come, in words."""
        absent = [r for r in range(self.at.size) if r not in self.here]
        named = ", ".join(map(str, absent[:8])) + (" ..." if len(absent) > 8 else "")
        return f"process{'es' if len(absent) > 1 else ''} {named} of {self.at.size}"


def _first_line(e: Exception) -> str:
    return str(e).splitlines()[0][:200].rstrip(".")

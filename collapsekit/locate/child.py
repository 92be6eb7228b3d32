"""The process an unknown file is read in: bounded in memory and time, and ended the moment it acts.

Started by :mod:`collapsekit.checkpoint.sandbox`; writes one JSON object on stdout and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.locate.read import Found, UnreadableError, locate

ACTED, OUT_OF_MEMORY = 97, 98  # exit codes
# All that looking into a file takes. Anything else (exec, compile, import, socket.*, subprocess.*, os.fork, ctypes.*)
# is an attack that got through, or a fault of ours: either way the process ends there.
_ALLOWED = frozenset(("open", "os.listdir", "os.scandir", "builtins.id", "object.__getattr__", "sys._getframe"))
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def confine(memory: int, seconds: int) -> None:
    """Bound this process's address space (bytes) and CPU time, and end it at the first audit event that acts."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock still ends it
        pass
    else:
        for what, limit in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(what, (limit, limit))
    for codec in ("cp437", "raw-unicode-escape"):  # imported on first use: zip names and pickles' text, now, not later
        "".encode(codec)
    sys.addaudithook(watch)


def watch(event: str, args: tuple[Any, ...]) -> None:
    """End the process at an event that is not one of reading."""
    if event not in _ALLOWED:
        _end(f"{event} {args[0]}" if event == "import" else event)
    if event == "open" and (set(str(args[1] or "r")) - set("rbt") or (args[2] or 0) & _WRITING):
        _end("open for writing")


def _end(event: str) -> None:
    os.write(2, event.encode("ascii", "replace"))
    os._exit(ACTED)


def answer(path: Path) -> dict[str, Any]:
    """What :func:`locate` says of ``path``, or the error it raises, as plain data for JSON."""
    try:
        return {"found": as_data(locate(path))}
    except UnreadableError as e:
        return {"refused": str(e), "format": e.format, "names": e.names, "pickled": e.pickled}
    except CollapsekitError as e:
        return {"config" if isinstance(e, ConfigError) else "refused": str(e)}


def as_data(found: Found) -> dict[str, Any]:
    """``found`` as JSON has it; tensors as [name, dtype, shape, [[file, offset, shape, stride, origin, swapped]]]."""
    numbers = {path: i for i, path in enumerate(found.paths)}
    return {
        "format": found.format,
        "key": found.key,
        "note": found.note,
        "names": found.names,
        "files": [[str(p), *_identity(p)] for p in found.paths],
        "tensors": [
            [
                name,
                t.dtype,
                t.shape,
                [[numbers[c.path], c.offset, c.shape, c.stride, c.origin, c.swapped] for c in t.chunks],
            ]
            for name, t in found.tensors.items()
        ],
    }


def _identity(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns, by which a file that changed meanwhile is told."""
    info = path.stat()
    return info.st_size, info.st_mtime_ns


def main(memory: int, seconds: int, path: str) -> None:
    """Read ``path`` within the limits, answer on stdout, and end without running anything more."""
    confine(memory, seconds)
    try:
        text = json.dumps(answer(Path(path)), allow_nan=False)
        sys.stdout.write(text)
        sys.stdout.flush()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    os._exit(0)

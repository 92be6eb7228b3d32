"""The process an unknown file is read in: bounded in memory and time, and ended the moment it acts.

Started by :mod:`collapsekit.checkpoint.sandbox`; writes one JSON object on stdout and nothing else.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapsekit.checkpoint.formats.detect import LocatedWeights, UnreadableError, locate
from collapsekit.checkpoint.formats.handles import one_look
from collapsekit.checkpoint.formats.layout import Located
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.io.safe_text import inline

ACTED, OUT_OF_MEMORY = 97, 98  # exit codes
# All that looking into a file takes. Anything else (exec, compile, import, socket.*, subprocess.*, os.fork, ctypes.*)
# is an attack that got through, or a fault of ours: either way the process ends there.
_ALLOWED = frozenset(
    (
        "open",
        "os.listdir",
        "os.scandir",
        "builtins.id",
        "object.__getattr__",
        "sys._getframe",
        "time.sleep",
        "fcntl.fcntl",
    )
)
MAX_ANSWERED = 50 << 20  # characters
_TOO_LONG = (
    f"has so many pieces, of so long names, that to say where they lie takes more than {MAX_ANSWERED:,} characters: "
    "save the model's weights alone, under shorter names."
)
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
            _, most = resource.getrlimit(what)  # lower ones, as of `ulimit`, stay
            least = limit if most == resource.RLIM_INFINITY else min(limit, most)
            resource.setrlimit(what, (least, least))
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
    """Return what :func:`locate` says of ``path``, or the error it raises, as plain data for JSON."""
    try:
        return {"found": as_data(locate(path))}
    except UnreadableError as e:
        return {"refused": str(e), "format": e.format, "names": e.names, "pickled": e.pickled, "file": e.file}
    except CollapsekitError as e:
        return {"config" if isinstance(e, ConfigError) else "refused": str(e)}


def as_data(located: LocatedWeights) -> dict[str, Any]:
    """Return ``located`` as JSON has it; tensors as [name, dtype, shape, [[file, offset, shape, stride, origin,
    swapped]]].
    """
    numbers, twin = {path: i for i, path in enumerate(located.files)}, located.averaged
    return {
        "format": located.format,
        "key": located.key,
        "note": located.note,
        "names": located.names,
        "versions": located.versions,
        "ties": located.ties,
        "files": [[str(path), *known] for path, known in located.files.items()],
        "tensors": _places(located.tensors, numbers),
        "averaged": twin and {"key": twin.key, "versions": twin.versions, "tensors": _places(twin.tensors, numbers)},
    }


def _places(tensors: Mapping[str, Located], numbers: Mapping[Path, int]) -> list[Any]:
    return [
        [
            name,
            t.dtype,
            t.shape,
            [[numbers[c.path], c.offset, c.shape, c.stride, c.origin, c.swapped] for c in t.chunks],
        ]
        for name, t in tensors.items()
    ]


def main(memory: int, seconds: int, path: str) -> None:
    """Read a checkpoint within limits, answer on stdout, and end without running anything more.

    Args:
        memory: bytes of address space.
        seconds: of CPU time.
        path: the file or folder.
    """
    if hasattr(signal, "SIGIO"):  # as collapsekit.checkpoint.formats.handles asks
        signal.signal(signal.SIGIO, signal.SIG_IGN)
    confine(memory, seconds)
    gc.disable()  # it would look again and again through the millions of objects that a pickle may make
    try:
        with one_look(patient=True):
            text = json.dumps(answer(Path(path)), allow_nan=False)
        if len(text) > MAX_ANSWERED:
            text = json.dumps({"refused": f"{inline(path, 4096)} {_TOO_LONG}"}, allow_nan=False)
        sys.stdout.write(text)
        sys.stdout.flush()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    os._exit(0)

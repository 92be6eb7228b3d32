"""look_into: an unknown file, read by a process of its own that is bounded in memory and time."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from collapsekit.checkpoint.formats.dcp import METADATA
from collapsekit.checkpoint.formats.detect import UnreadableError
from collapsekit.checkpoint.formats.handles import open_regular
from collapsekit.checkpoint.formats.holes import stored_bytes
from collapsekit.checkpoint.formats.worker import ACTED, OUT_OF_MEMORY
from collapsekit.checkpoint.formats.zip_archive import MAGIC
from collapsekit.errors import CollapsekitError, ConfigError, RefusedError

MEMORY = 1 << 30  # address space, bytes
_CPU_SECONDS = 8  # for names and places, of which the reader takes so many at most
# Checksums are over every byte that is stored, and run at hundreds of MB a second.
_CPU_BYTES_A_SECOND, _MOST_CPU_SECONDS = 50 << 20, 3600
_WALL_SECONDS, _WALL_BYTES_A_SECOND = 30, 5 << 20  # a slow network disk
_MAX_FILES = 100_000  # looked at for their sizes
# -I: neither the environment nor the working directory decides what is imported.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from collapsekit.checkpoint.formats.worker import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
)
_OUT_OF_TIME = [getattr(signal, name) for name in ("SIGXCPU", "SIGKILL") if hasattr(signal, name)]  # not on Windows
_PACKAGE_FOLDER = Path(__file__).parents[2]


def look_into(path: Path) -> dict[str, Any]:
    """Return what collapsekit.checkpoint.formats found: format, key, note, names, files and tensors as in child.answer.

    Raises ConfigError or RefusedError as :func:`collapsekit.checkpoint.formats.detect.locate` does, and RefusedError where
    reading took more memory or time than a file of its size needs, or acted.
    """
    summed = _summed(path)
    cpu = min(_CPU_SECONDS + summed // _CPU_BYTES_A_SECOND, _MOST_CPU_SECONDS)
    wall = _WALL_SECONDS + 2 * cpu + summed // _WALL_BYTES_A_SECOND
    command: list[str | Path | bytes] = [
        sys.executable,
        "-I",
        "-c",
        _PROGRAM,
        _PACKAGE_FOLDER,
        str(MEMORY),
        str(cpu),
        os.fsencode(path),
    ]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=wall, check=False)
    except subprocess.TimeoutExpired:
        raise RefusedError(_too_much(path, f"{wall} seconds")) from None
    except ValueError:  # a NUL in the path
        raise ConfigError(f"checkpoint {str(path)!r} is no path: check it.") from None
    if done.returncode == 0:
        return _understood(_parsed(done.stdout))
    raise _ended(path, done, cpu)


def _parsed(answer: bytes) -> dict[str, Any]:
    """Without looking for garbage again and again, while so many lists are made of it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        parsed: dict[str, Any] = json.loads(answer)
        return parsed
    finally:
        if collecting:
            gc.enable()


def _understood(answer: dict[str, Any]) -> dict[str, Any]:
    if "config" in answer:
        raise ConfigError(answer["config"])
    if "names" in answer:
        file = None if answer["file"] is None else tuple(answer["file"])
        raise UnreadableError(
            answer["refused"], answer["format"], answer["names"], pickled=answer["pickled"], file=file
        )
    if "refused" in answer:
        raise RefusedError(answer["refused"])
    found: dict[str, Any] = answer["found"]
    return found


def _ended(path: Path, done: subprocess.CompletedProcess[bytes], cpu: int) -> CollapsekitError | RuntimeError:
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode == ACTED:
        return RefusedError(
            f"{path} made its reader try to act ({said[:80]}), which was stopped: do not load it anywhere, and get the "
            "weights from another source."
        )
    if done.returncode == OUT_OF_MEMORY:
        return RefusedError(_too_much(path, f"{MEMORY >> 20} MB of memory"))
    if -done.returncode in _OUT_OF_TIME:
        return RefusedError(_too_much(path, f"{cpu} seconds of computing"))
    if done.returncode < 0:
        return RefusedError(
            f"{path} made its reader fail (signal {-done.returncode}): it is damaged or hostile; get it anew."
        )
    return RuntimeError(f"the reader of {path} failed: {said[-2000:]}")


def _too_much(path: Path, what: str) -> str:
    return (
        f"{path} takes more than {what} to look into, far more than a checkpoint of its size: it is damaged or hostile; "
        "copy or download it again."
    )


def _summed(path: Path) -> int:
    """Bytes that checksums are over: what is stored of a zip archive, or of all files of a directory of
    torch.distributed.checkpoint. 0 for other formats, and where that cannot be had (the child says why)."""
    try:
        if not path.is_dir():
            return _stored_of_archive(path)
        if not (path / METADATA).is_file():
            return 0
        with os.scandir(path) as entries:
            return sum(_stored_of_archive(Path(e.path)) for e in itertools.islice(entries, _MAX_FILES))
    except (OSError, ValueError):
        return 0


def _stored_of_archive(path: Path) -> int:
    if not path.is_file():
        return 0
    with open_regular(path) as stream:
        return stored_bytes(stream) if stream.read(len(MAGIC)) == MAGIC else 0

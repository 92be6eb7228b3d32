"""Files that torch.save wrote, zip or legacy, read with the weights-only unpickler and nothing else."""

from __future__ import annotations

import io
import pickletools
import re
import struct
import warnings
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import torch

from collapsekit.checkpoint.source import Source
from collapsekit.errors import RefusedError

_REMEDY = 'in the code that made it, run `torch.save(model.state_dict(), "weights.pt")` and give that file'


class _Inert:
    """Stands in for a harmless object kept beside the weights (arguments, a NumPy score, a path): holds nothing."""

    def __new__(cls, *_: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# Classes that training scripts commonly leave beside the weights. The name in the file is answered with a
# stand-in, so the real class is neither imported nor called.
_INERT_NAMES = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "datetime.datetime",
    "datetime.timedelta",
    *(f"{m}.{c}" for m in ("pathlib", "pathlib._local") for c in ("Path", "PosixPath", "WindowsPath")),
    *(f"{m}.multiarray.{f}" for m in ("numpy.core", "numpy._core") for f in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
)
_DICT_NAMES = (  # subclasses of dict, read as plain ordered ones
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((_Inert, name) for name in _INERT_NAMES),
    *((OrderedDict, name) for name in _DICT_NAMES),
]
# What a file of plain tensors names; left out when the classes that caused a refusal are listed.
_ORDINARY = re.compile(
    r"torch\.\w+|torch\.(_utils|_tensor|storage|serialization)\..*|torch\.nn\.parameter\.Parameter"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
)


def is_torch_zip(source: Source) -> bool:
    """A zip with the archive's one pickle at its root, as torch.save and TorchScript write it."""
    return bool(_pickle_member(source))


def load_torch_zip(source: Source) -> object:
    """The object torch.save was given, its tensors mapped from the file. Raises RefusedError."""
    if source.path.suffix == ".safetensors":  # torch.load would go by the name, so it is not told
        with source.path.open("rb") as stream:
            return _load(source, stream, mmap=False)
    return _load(source, str(source.path), mmap=True)


def is_torch_legacy(source: Source) -> bool:
    """A bare pickle: torch.save before 1.6 (or ``_use_new_zipfile_serialization=False``), or one of any maker."""
    return source.head[0] == 0x80 and source.head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def load_torch_legacy(source: Source) -> object:
    """The object torch.save was given. Raises RefusedError."""
    with source.path.open("rb") as stream:
        return _load(source, stream, mmap=False)


def _load(source: Source, file: str | BinaryIO, *, mmap: bool) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)
    except Exception as e:  # noqa: BLE001 - hostile bytes can make the parser raise anything
        raise RefusedError(_why(source, e)) from None


def _why(source: Source, error: Exception) -> str:
    named = re.findall(r"GLOBAL ([\w.]+)", str(error))
    classes = list(dict.fromkeys([n for n in _names_in(source) if not _known(n)] + named))
    if classes:
        listed = ", ".join(c[:100] for c in classes[:5]) + (", ..." if len(classes) > 5 else "")
        return (
            f"{source.path} holds pickled Python objects ({listed}), and loading those would run code "
            f"chosen by the file: {_REMEDY}."
        )
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return (
        f"{source.path} cannot be read as a torch checkpoint (damaged, truncated or not made by torch.save; "
        f"{reason}): copy or download it again, or {_REMEDY}."
    )


def _known(name: str) -> bool:
    return name in _INERT_NAMES or name in _DICT_NAMES or _ORDINARY.fullmatch(name) is not None


def _pickle_member(source: Source) -> str | None:
    root = source.members[0].split("/")[0] if source.members else ""
    return next((n for n in source.members if n == f"{root}/data.pkl"), None)


def _names_in(source: Source) -> list[str]:
    member = _pickle_member(source)
    if member is None:
        with source.path.open("rb") as stream:
            return _pickled_names(stream)
    try:
        with zipfile.ZipFile(source.path) as archive:
            return _pickled_names(io.BytesIO(archive.read(member)))
    except zipfile.BadZipFile:  # written without checksums, which zipfile takes for damage
        return []


def _pickled_names(stream: BinaryIO) -> list[str]:
    """The classes and functions that pickles name, in order of appearance, found by disassembly alone."""
    found: dict[str, None] = {}
    for _ in range(5):  # the legacy format is five pickles, one after the other, then raw storage bytes
        try:
            for name in _names_in_one(pickletools.genops(stream)):
                found[name] = None  # kept even where the pickle breaks off later
        except (ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error):
            break
    return list(found)


def _names_in_one(operations: Iterable[tuple[Any, Any, Any]]) -> Iterable[str]:
    strings: deque[str] = deque(["", ""], maxlen=2)
    memo: dict[int, str] = {}
    for op, arg, _ in operations:
        if op.name in ("GLOBAL", "INST"):
            yield str(arg).replace(" ", ".", 1)
        elif op.name == "STACK_GLOBAL":
            yield ".".join(strings)
        elif "UNICODE" in op.name:
            strings.append(arg)
        elif op.name == "MEMOIZE" or op.name.endswith("PUT"):
            memo[len(memo) if arg is None else arg] = strings[-1]
        elif op.name.endswith("GET"):
            strings.append(memo.get(arg, ""))

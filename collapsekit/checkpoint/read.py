"""read_checkpoint: tells the format by content, reads it, and says in one sentence what was taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from collapsekit.checkpoint.arrayfile import is_npz, is_safetensors, load_npz, load_safetensors
from collapsekit.checkpoint.source import Source, open_source, sha256_of
from collapsekit.checkpoint.torchfile import (
    is_torch_legacy,
    is_torch_zip,
    load_torch_legacy,
    load_torch_zip,
)
from collapsekit.checkpoint.weights import Weights, find_weights, plain_tensors
from collapsekit.errors import RefusedError


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors out of a file, on the CPU, detached, with the file's own names (prefixes included).

    Tensors may be mapped from the file: writing to them never reaches it.
    """

    path: Path
    sha256: str  # of the whole file, 64 hex digits
    format: str
    tensors: dict[str, Tensor]
    key: str | None  # the nested key the weights were taken from, dotted; None: the top level
    note: str  # one sentence: what was taken, and what was not


@dataclass(frozen=True)
class Format:
    """A kind of file: how its content is told, and how it becomes an object of tensors."""

    name: str
    sniff: Callable[[Source], bool]
    load: Callable[[Source], object]


# The first whose sniff says yes reads the file. A new format is one more line here.
FORMATS = (
    Format("torch zip", is_torch_zip, load_torch_zip),
    Format("npz", is_npz, load_npz),
    Format("safetensors", is_safetensors, load_safetensors),
    Format("torch legacy", is_torch_legacy, load_torch_legacy),
)

# What people hand over by mistake: first bytes, what it is, what to do.
_MISTAKEN = (
    (b"version https://git-lfs", "a git-LFS pointer, not the weights", "run `git lfs pull` where it came from"),
    (b"<", "a web page or XML text, not weights", "download the file itself (the raw or resolve link)"),
    (b"{", "JSON text, not weights", "give the file of weights that it describes"),
    (b"\x1f\x8b", "gzip-compressed", "unpack it first"),
    (b"\x89HDF", "an HDF5 file", "save the tensors as safetensors first"),
    (b"GGUF", "a GGUF file", "give the original PyTorch or safetensors weights"),
    (b"\x93NUMPY", "a single NumPy array", "save the weights by name with np.savez"),
    (b"PK", "a zip archive that neither torch.save nor np.savez wrote", "unpack it and give the weights in it"),
)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Named tensors from a .pt/.pth/.bin/.ckpt (zip or legacy), .safetensors or .npz file, told by content.

    Nothing in the file is executed: pickles go through torch's weights-only unpickler. Raises ConfigError
    where the file is missing, RefusedError where it is unsafe, damaged or not a checkpoint.
    """
    source = open_source(path)
    for kind in FORMATS:
        if kind.sniff(source):
            break
    else:
        raise RefusedError(_unfamiliar(source))
    loaded = kind.load(source)
    weights = find_weights(loaded)
    if weights is None:
        raise RefusedError(
            f"{path} holds no named tensors (it is a {type(loaded).__name__}): save `model.state_dict()` instead."
        )
    tensors = plain_tensors(weights, source.path, source.size)
    note = _note(kind.name, weights, loaded, source)
    return Checkpoint(source.path, sha256_of(source.path), kind.name, tensors, weights.key, note)


def _unfamiliar(source: Source) -> str:
    text = source.head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, what, remedy in _MISTAKEN:
        if text.startswith(magic):
            return f"{source.path} is {what}: {remedy}."
    return (
        f"{source.path} is not a checkpoint that can be read (torch zip, torch legacy, safetensors or .npz; it "
        f'begins with {source.head[:8]!r}): save one with `torch.save(model.state_dict(), "weights.pt")`.'
    )


def _note(kind: str, weights: Weights, loaded: object, source: Source) -> str:
    count = len(weights.entries)
    maker = "Lightning " if isinstance(loaded, Mapping) and "pytorch-lightning_version" in loaded else ""
    where = f"from {weights.key!r} of" if weights.key else "from the top level of"
    text = f"{count} tensor{'s' * (count != 1)} taken {where} a {maker}{kind} file"
    if weights.parts:
        text += f", joined from {', '.join(map(repr, weights.parts[:6]))}"
    if weights.twin:
        text += f"; the EMA weights that stand beside them under {weights.twin!r} were left out"
    if weights.other:
        text += f"; {weights.other} entr{'ies' if weights.other > 1 else 'y'} without a tensor left out"
    if source.is_zip and not source.checksummed:
        text += "; the file carries no checksums, so damage would go unseen"
    return text + "."

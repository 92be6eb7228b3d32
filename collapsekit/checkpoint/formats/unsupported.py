"""What people hand over by mistake: told by its first bytes, with what to do."""

from __future__ import annotations

from collections.abc import Iterable

from collapsekit.checkpoint.formats.source import Opened

_MISTAKEN = (
    (b"version https://git-lfs", "a git-LFS pointer, not the weights", "run `git lfs pull` where it came from"),
    (b"<", "a web page or XML text, not weights", "download the file itself (the raw or resolve link)"),
    (b"{", "JSON text, not weights", "give the file of weights that it describes"),
    (b"\x1f\x8b", "gzip-compressed", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "unpack it first"),
    (b"\xfd7zXZ", "xz-compressed", "unpack it first"),
    (b"\x89HDF", "an HDF5 file", "save the tensors as safetensors first"),
    (b"GGUF", "a GGUF file", "give the original PyTorch or safetensors weights"),
    (b"\x93NUMPY", "a single NumPy array", "save the weights by name with np.savez"),
    (b"\x7fELF", "a program, not weights", "give the file of weights"),
    (b"PK", "a zip archive that neither torch.save nor np.savez wrote", "unpack it and give the weights in it"),
)
_TAR_MAGIC = b"ustar"
_TAR_AT = 257


def unfamiliar(file: Opened, members: Iterable[str] = ()) -> str:
    """Return one sentence for a file that no reader takes; ``members`` are the names in it, where it is a zip archive."""
    if file.head[_TAR_AT : _TAR_AT + 5] == _TAR_MAGIC:
        return (
            f"{file.path} is a tar archive (torch's format before 0.1.10 was one too): unpack it and give the weights in "
            "it, or load it where it was made and save `model.state_dict()` anew."
        )
    text = file.head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, what, remedy in _MISTAKEN:
        if text.startswith(magic):
            inside = ", ".join(repr(n[:60]) for n in list(members)[:3])
            return f"{file.path} is {what}{f' (it holds {inside})' if inside else ''}: {remedy}."
    return (
        f"{file.path} is not a checkpoint that can be read (torch zip, torch legacy, safetensors or .npz; it "
        f'begins with {file.head[:8]!r}): save one with `torch.save(model.state_dict(), "weights.pt")`.'
    )

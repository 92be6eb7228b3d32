"""What a file is before any reader touches it: regular, whole, and (where it is a zip) every member intact."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from collapsekit.errors import ConfigError, RefusedError

HEAD_BYTES = 512
_CHUNK = 1 << 20
_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, OSError, OverflowError, RuntimeError, ValueError, struct.error)


@dataclass(frozen=True)
class Source:
    """A file's first bytes, its size and, for a zip archive, its member names; all that a sniffer may use."""

    path: Path
    head: bytes
    size: int
    members: tuple[str, ...] = ()  # in archive order; empty where the file is not a zip
    checksummed: bool = False  # whether every byte was held against a checksum stored in the file

    @property
    def is_zip(self) -> bool:
        """Whether the file begins as a zip archive does."""
        return self.head.startswith(b"PK\x03\x04")


def open_source(path: str | Path) -> Source:
    """Look at a file without reading weights from it.

    Raises ConfigError where there is no such file or it may not be opened, RefusedError where it is not a
    regular file, is empty, or is a zip archive with a compressed, repeated, overlapping or damaged member.
    """
    file = Path(path)
    try:
        info = file.stat()
    except FileNotFoundError:
        raise ConfigError(f"checkpoint {path} does not exist: check the path.") from None
    except (OSError, ValueError) as e:
        raise ConfigError(f"checkpoint {path} cannot be looked up ({e}): check the path.") from None
    if stat.S_ISDIR(info.st_mode):
        raise RefusedError(f"{path} is a directory: name the weights file in it, such as model.safetensors.")
    if not stat.S_ISREG(info.st_mode):  # before open(): opening a FIFO would wait for a writer for ever
        raise RefusedError(f"{path} is a pipe, socket or device: give a regular file, saved to disk first.")
    if info.st_size == 0:
        raise RefusedError(f"{path} is empty (0 bytes): the save or download did not finish, make it again.")
    try:
        with file.open("rb") as stream:
            source = Source(file, stream.read(HEAD_BYTES), info.st_size)
    except OSError as e:
        raise ConfigError(f"checkpoint {path} cannot be opened ({e}): check its permissions.") from None
    return _audited(source) if source.is_zip else source


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _audited(source: Source) -> Source:
    """``source`` with its member names, once the archive holds only what it declares (torch checks no CRC)."""
    path = source.path
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _refuse_odd_members(source, infos)
            # torch.serialization.set_crc32_options(False) leaves 0 in every member: nothing to hold it against.
            checksummed = any(i.CRC for i in infos)
            if checksummed:
                for info in infos:
                    _read_through(archive, info)
    except _ZIP_ERRORS as e:
        raise RefusedError(f"{path} is a damaged or truncated zip archive ({e}): copy or download it again.") from None
    return Source(path, source.head, source.size, tuple(i.filename for i in infos), checksummed)


def _refuse_odd_members(source: Source, infos: list[zipfile.ZipInfo]) -> None:
    path, seen = source.path, set[str]()
    if any(i.filename.endswith("/constants.pkl") for i in infos):  # its code members are compressed
        raise RefusedError(
            f"{path} is a TorchScript archive, which carries code: in the code that made it, run "
            '`torch.save(model.state_dict(), "weights.pt")` before torch.jit.script and give that file.'
        )
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise RefusedError(
                f"{path} has a compressed member {info.filename!r}, which torch.save and np.savez never write "
                "and which may unpack without end: save the weights again with one of them."
            )
        if info.flag_bits & 0x1:
            raise RefusedError(f"{path} has an encrypted member {info.filename!r}: save the weights unencrypted.")
        name = info.filename.lower()  # torch's zip reader finds members regardless of case
        if name in seen:
            raise RefusedError(
                f"{path} has two members named {info.filename!r}, so readers may disagree about its content: "
                "save the weights again."
            )
        seen.add(name)
    if sum(i.compress_size for i in infos) > source.size:
        raise RefusedError(f"{path} has members that overlap one another: save the weights again.")


def _read_through(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    with archive.open(info) as member:  # raises BadZipFile at the end where the CRC-32 differs
        while member.read(_CHUNK):
            pass

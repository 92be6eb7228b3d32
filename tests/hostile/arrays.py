"""NumPy archives whose arrays are pickles, whose headers are code, or whose numbers lie in another order."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.hostile.catalogue import add, canary, holds_w, read, refused
from tests.hostile.zipper import Member, archive

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

NUMBERS = np.arange(4, dtype="<f4").tobytes()
DAMAGED = "not a sound npz file|no named tensors"


def npy(header: str | bytes, data: bytes = NUMBERS, version: int = 1, length: int | None = None) -> bytes:
    """A .npy file around any header."""
    raw = header if isinstance(header, bytes) else header.encode("latin1")
    count = len(raw) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", count) + raw + data


def described(descr: str = "'<f4'", order: str = "False", shape: str = "(4,)") -> str:
    """The usual header, any part of it replaced."""
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def _npz(folder: Path, *arrays: tuple[str, bytes]) -> Path:
    (folder / "m.npz").write_bytes(archive([Member(name, data) for name, data in arrays]))
    return folder / "m.npz"


class Acting:
    """Pickled as a call that creates the canary."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@refused("Python objects")
def npz_of_objects(folder: Path) -> Path:
    """An array of Python objects, which is a pickle that acts."""
    np.savez(folder / "m.npz", w=np.array([Acting(canary(folder))], dtype=object))
    return folder / "m.npz"


@refused("Python objects")
def npz_of_objects_beside_weights(folder: Path) -> Path:
    """The same beside a sound array."""
    acting = np.array([Acting(canary(folder))], dtype=object)
    np.savez(folder / "m.npz", w=np.arange(4, dtype="f4"), x=acting)
    return folder / "m.npz"


@refused("compress")
def npz_compressed(folder: Path) -> Path:
    """20 MB of zeros in 20 KB; np.savez_compressed writes such files."""
    with zipfile.ZipFile(folder / "m.npz", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("w.npy", npy(described(shape="(5000000,)"), bytes(20_000_000)))
    return folder / "m.npz"


# header of the only array, beside sixteen bytes of numbers
HEADERS: dict[str, bytes] = {
    "header_of_code": npy("__import__('os').system('touch canary')\n"),
    "header_with_a_call_inside": npy(described(shape="(len('abcd'),)")),
    "header_with_a_comprehension": npy(described(shape="[4 for _ in (1,)]")),
    "header_with_huge_power": npy(described(shape="(9**9**9,)")),
    "header_with_repeated_string": npy(described(descr="'<f4'*10**9")),
    "header_nested": npy("{'descr': " + "(" * 50_000 + "'<f4'" + ")" * 50_000 + "}\n", version=2),
    "header_nested_minus": npy("{'descr': " + "-" * 60_000 + "1}\n", version=2),
    "header_of_a_list": npy("[1, 2]\n"),
    "header_cut": npy("{'descr': '<f4', "),
    "header_empty": npy(""),
    "header_key_missing": npy("{'descr': '<f4', 'shape': (4,)}\n"),
    "header_key_too_many": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': 1}\n"),
    "header_past_the_end": npy(described(), length=60_000),
    "header_of_4_gigabytes": npy(described(), version=2, length=0xFFFFFFFF),
    "header_with_nul": npy(described() + "\0"),
    "shape_huge": npy(described(shape="(1099511627776,)")),
    "shape_overflows": npy(described(shape="(4294967296, 4294967296)")),
    "shape_of_10000_digits": npy(described(shape="(" + "9" * 10_000 + ",)")),
    "shape_negative": npy(described(shape="(-4,)")),
    "shape_negative_twice": npy(described(shape="(-2, -2)")),
    "shape_float": npy(described(shape="(4.0,)")),
    "shape_not_a_tuple": npy(described(shape="4")),
    "shape_of_65_dimensions": npy(described(shape="(4," + "1," * 64 + ")")),
    "order_not_a_boolean": npy(described(order="'yes'")),
    "numbers_missing": npy(described(), NUMBERS[:-4]),
    "numbers_left_over": npy(described(), NUMBERS + b"junk"),
    "version_unknown": npy(described(), version=9),
    "magic_wrong": b"\x93NUMPX" + npy(described())[6:],
    "empty_member": b"",
}
for key, content in HEADERS.items():

    def _headed(folder: Path, content: bytes = content) -> Path:
        return _npz(folder, ("w.npy", content))

    add(_headed, f"npz_{key}", says=DAMAGED)


# dtype of an array that is left out, beside a sound one
LEFT_OUT = {
    "structured": ("[('a', '<f4'), ('b', '<f4')]", bytes(32)),
    "text": ("'<U1'", bytes(16)),
    "dates": ("'<M8[s]'", bytes(32)),
    "long_double": ("'<f16'", bytes(64)),
    "void": ("'|V4'", bytes(16)),
}
for key, (descr, data) in LEFT_OUT.items():

    def _odd(folder: Path, descr: str = descr, data: bytes = data) -> Path:
        return _npz(folder, ("w.npy", npy(described())), ("x.npy", npy(described(descr), data)))

    add(_odd, f"npz_beside_{key}", says=None, check=holds_w)


@refused("Python objects")
def npz_structured_with_objects(folder: Path) -> Path:
    """A structured dtype with a field of objects."""
    return _npz(folder, ("w.npy", npy(described("[('a', '|O'), ('b', '<f4')]"), bytes(48))))


def _grid(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@read(_grid)
def npz_fortran_order(folder: Path) -> Path:
    """Lawful: columns first."""
    np.savez(folder / "m.npz", w=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    return folder / "m.npz"


@read(_grid)
def npz_fortran_big_endian(folder: Path) -> Path:
    """Lawful: columns first, and each number turned round."""
    np.savez(folder / "m.npz", w=np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)))
    return folder / "m.npz"


@read()
def npz_big_endian(folder: Path) -> Path:
    """Lawful: numbers as a big-endian machine writes them."""
    np.savez(folder / "m.npz", w=np.arange(4, dtype=">f8"))
    return folder / "m.npz"


def _complex(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].tolist() == [1 + 2j, 3 - 4j]


@read(_complex)
def npz_complex_big_endian(folder: Path) -> Path:
    """Lawful: each half of a complex number is turned round by itself."""
    np.savez(folder / "m.npz", w=np.array([1 + 2j, 3 - 4j], dtype=">c16"))
    return folder / "m.npz"


@refused("two members")
def npz_duplicate_members(folder: Path) -> Path:
    """Two arrays of one name."""
    return _npz(folder, ("w.npy", npy(described())), ("w.npy", npy(described(), bytes(16))))


@refused("neither torch.save|two members")
def npz_names_alike_without_suffix(folder: Path) -> Path:
    """w and w.npy: np.load calls both of them w."""
    return _npz(folder, ("w.npy", npy(described())), ("w", npy(described(), bytes(16))))


@refused("neither torch.save")
def npz_with_a_stranger(folder: Path) -> Path:
    """An archive of arrays and one member that is none."""
    return _npz(folder, ("w.npy", npy(described())), ("run.sh", b"touch canary"))


@read()
def npz_of_later_header_versions(folder: Path) -> Path:
    """Lawful: header versions 2 and 3."""
    return _npz(folder, ("w.npy", npy(described(), version=2)), ("v.npy", npy(described(), version=3)))


@refused("dimensions|shape|size|large")
def npz_no_elements_of_overflowing_dimensions(folder: Path) -> Path:
    """Sizes of 0, 2^62 and 2^62: no element, and strides that no integer holds."""
    none = npy(described(shape=f"(0, {1 << 62}, {1 << 62})"), b"")
    return _npz(folder, ("w.npy", npy(described())), ("e.npy", none))

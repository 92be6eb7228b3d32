"""Tensors that claim more than their storage has, or that are no plain dense numbers."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.hostile.assemble import (
    FLOATS,
    called,
    legacy_weights,
    named,
    plain,
    storage,
    tensor,
    tensors,
    torch_legacy,
    torch_zip,
    tuple_of,
)
from tests.hostile.catalogue import add, read, refused

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

_HUGE = b"\x8b" + struct.pack("<i", 100_000) + b"\x01" * 100_000  # an integer of 240,000 digits
BEYOND = "claims|more than the file's|non-negative integers|dimensions|without a storage|storage wrongly|4300 digits"

# opcodes of the tensor "w" -> the pattern of the refusal
VIEWS: dict[str, bytes] = {
    "view_of_10_12_elements": tensor(shape=(10**12,), stride=(0,)),
    "view_of_10_12_contiguous": tensor(shape=(10**12,)),
    "stride_negative": tensor(offset=3, stride=(-1,)),
    "offset_negative": tensor(offset=-1),
    "size_negative": tensor(shape=(-4,)),
    "sizes_negative_twice": tensor(shape=(-2, -2), stride=(2, 1)),
    "offset_past_the_end": tensor(offset=1),
    "offset_far_past_the_end": tensor(offset=1 << 40, shape=(0,)),
    "offset_of_2_64": tensor(offset=1 << 64),
    "stride_overflows_63_bits": tensor(shape=(2, 2), stride=(1 << 62, 1)),
    "stride_overflows_64_bits": tensor(shape=(5,), stride=(1 << 62,)),
    "sizes_multiply_to_zero_in_64_bits": tensor(shape=(1 << 32, 1 << 32), stride=(0, 0)),
    "size_of_2_64_and_four": tensor(shape=((1 << 64) + 4,)),
    "sixty_five_dimensions": tensor(shape=(1,) * 65, stride=(1,) * 65),
    "fifty_thousand_dimensions": tensor(shape=(1,) * 50_000, stride=(1,) * 50_000),
    "more_strides_than_sizes": tensor(stride=(1, 1)),
    "shape_of_floats": tensor(shape=(4.0,)),
    "shape_of_strings": tensor(shape=("4",)),
    "shape_nested": tensor(shape=((4,),)),
    "shape_of_booleans": tensor(shape=(True,)),
    "shape_none": tensor(shape=plain(None)),
    "shape_of_240000_digits": tensor(shape=tuple_of(_HUGE)),
    "offset_of_240000_digits": tensor(offset=_HUGE),
    "offset_a_tensor": tensor(offset=tensor()),
    "storage_is_a_number": tensor(stored=plain(5)),
    "storage_is_a_dict": tensor(stored=b"}"),
}
for key, view in VIEWS.items():

    def _view(folder: Path, view: bytes = view) -> Path:
        return torch_zip(folder / "m.pt", tensors((plain("w"), view)))

    add(_view, key, says=BEYOND)

# opcodes of the storage of "w" -> the pattern of the refusal
STORAGES: dict[str, tuple[bytes, str]] = {
    "numel_above_the_member": (storage(numel=400), BEYOND),
    "numel_negative": (storage(numel=-4), BEYOND),
    "numel_of_240000_digits": (storage(numel=_HUGE), BEYOND),
    "numel_a_string": (storage(numel=plain("4")), BEYOND),
    "key_out_of_the_folder": (storage("../../x"), "storage .* is not there"),
    "key_of_another_member": (storage("../version"), "storage .* is not there"),
    "key_absolute": (storage("/etc/passwd"), "storage .* is not there"),
    "key_missing": (storage("7"), "storage .* is not there"),
    "key_empty": (storage(""), "storage .* is not there"),
    "key_with_an_escape": (storage("\x1b]0;x\x07\n::error::x"), "storage .* is not there"),
    "key_of_a_megabyte": (storage("k" * 1_000_000), "storage .* is not there"),
    "dtype_wider_than_the_member": (storage(kind="DoubleStorage"), BEYOND),
    "dtype_unknown": (storage(kind="HalfwayStorage"), "HalfwayStorage"),
}
for key, (stored, says) in STORAGES.items():

    def _storage(folder: Path, stored: bytes = stored) -> Path:
        return torch_zip(folder / "m.pt", tensors((plain("w"), tensor(stored))))

    add(_storage, key, says=says)

_ODD = "not stored as plain dense numbers"


def _saved(make: Callable[[], torch.Tensor]) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save({"w": make()}, folder / "m.pt")
        return folder / "m.pt"

    return save


ODD: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(2).to_sparse(),
    "sparse_csr": lambda: torch.eye(2).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(2, device="meta"),
    "nested_tensor": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
}
for key, odd in ODD.items():
    add(_saved(odd), key, says=_ODD)

# functions and classes that rebuild tensors otherwise
REBUILT: dict[str, tuple[bytes, str]] = {
    "dtensor": (
        called(
            named("torch._utils", "_rebuild_wrapper_subclass"),
            named("torch.distributed.tensor", "DTensor"),
            *[plain(v) for v in (None, (4,), (1,), 0, None, "cuda", False)],
        ),
        _ODD,
    ),
    "subclass_of_unknown_type": (
        called(
            named("torch._tensor", "_rebuild_from_type_v2"),
            named("torch._utils", "_rebuild_tensor_v2"),
            named("my.tensors", "Tensor"),
            tuple_of(storage(), plain(0), plain((4,)), plain((1,)), plain(False), b"}"),
            b"}",
        ),
        r"my\.tensors\.Tensor",
    ),
    "rebuilt_by_an_acting_function": (
        called(
            named("torch._tensor", "_rebuild_from_type_v2"),
            named("posix", "system"),
            named("my.tensors", "Tensor"),
            plain(("true",)),
            b"}",
        ),
        r"posix\.system",
    ),
    "rebuilt_with_too_few_arguments": (
        called(named("torch._utils", "_rebuild_tensor_v2"), storage()),
        "not well formed",
    ),
    "rebuilt_with_too_many_arguments": (
        called(named("torch._utils", "_rebuild_tensor_v2"), storage(), *[plain(1)] * 300),
        "non-negative integers",
    ),
    "parameter_of_nothing": (called(named("torch._utils", "_rebuild_parameter"), plain(None)), "no named tensors"),
}
for key, (rebuilt, says) in REBUILT.items():

    def _rebuilt(folder: Path, rebuilt: bytes = rebuilt) -> Path:
        return torch_zip(folder / "m.pt", tensors((plain("w"), rebuilt)))

    add(_rebuilt, key, says=says)


@read()
def big_endian(folder: Path) -> Path:
    """Written on a big-endian machine: the numbers are turned round, not misread."""
    swapped = struct.pack(">4f", 0, 1, 2, 3)
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor())), {"0": swapped}, byteorder=b"big")


@refused("byte ?order|endian")
def byteorder_unknown(folder: Path) -> Path:
    """A byteorder that is neither little nor big."""
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor())), byteorder=b"middle\x1b[31m")


def _empty(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["e"].shape == (0, 7)
    assert checkpoint.tensors["s"].shape == ()
    assert checkpoint.tensors["s"].item() == 2


@read(_empty)
def empty_and_scalar(folder: Path) -> Path:
    """A tensor without elements (on a storage without bytes) and one without dimensions."""
    none = tensor(storage("1", 0), shape=(0, 7), stride=(7, 1))
    scalar = tensor(offset=2, shape=(), stride=())
    pickled = tensors((plain("e"), none), (plain("s"), scalar))
    return torch_zip(folder / "m.pt", pickled, {"0": FLOATS, "1": b""})


def _spread(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].tolist() == [[1, 1, 1], [3, 3, 3]]


@read(_spread)
def strided_and_broadcast(folder: Path) -> Path:
    """Lawful: a view with offset 1, stride 2 and a repeated dimension."""
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor(offset=1, shape=(2, 3), stride=(2, 0)))))


@refused("before its last storage")
def legacy_storage_longer_than_the_file(folder: Path) -> Path:
    """The length before the storage's bytes says 2^61."""
    path = torch_legacy(folder / "m.pt", legacy_weights())
    raw = path.read_bytes()
    path.write_bytes(raw[: -8 - len(FLOATS)] + struct.pack("<q", 1 << 61) + FLOATS)
    return path


@refused("before its last storage")
def legacy_storage_of_negative_length(folder: Path) -> Path:
    """The length before the storage's bytes is negative."""
    path = torch_legacy(folder / "m.pt", legacy_weights())
    raw = path.read_bytes()
    path.write_bytes(raw[: -8 - len(FLOATS)] + struct.pack("<q", -4) + FLOATS)
    return path


@refused("list of storages")
def legacy_keys_without_the_storage(folder: Path) -> Path:
    """The list of storages does not name the one the tensor lies in."""
    return torch_legacy(folder / "m.pt", legacy_weights(), keys=pickle.dumps(["9"], 2))


@refused("before its last storage")
def legacy_keys_name_one_storage_twice(folder: Path) -> Path:
    """The list of storages names the same one twice, with bytes for one."""
    return torch_legacy(folder / "m.pt", legacy_weights(), keys=pickle.dumps(["0", "0"], 2))


@refused("more than the file's")
def many_broadcast_tensors(folder: Path) -> Path:
    """2,000 tensors of 61 MiB each on four floats: 119 GiB, were each of them made."""
    big = tensor(shape=(16_000_000,), stride=(0,))
    items = b"".join(plain(f"w{i}") + big for i in range(2_000))
    return torch_zip(folder / "m.pt", b"\x80\x02}(" + items + b"u.")


def _no_elements(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["e"].numel() == 0
    assert checkpoint.tensors["w"].tolist() == [0, 1, 2, 3]


@refused("dimensions|shape|size|large")
def no_elements_of_overflowing_dimensions(folder: Path) -> Path:
    """Sizes of 0, 2^62 and 2^62: no element, and strides that no integer holds."""
    none = tensor(shape=(0, 1 << 62, 1 << 62), stride=(1, 1, 1))
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor()), (plain("e"), none)))


@read(_no_elements)
def no_elements_of_a_large_dimension(folder: Path) -> Path:
    """Lawful: sizes of 0 and 2^40."""
    none = tensor(shape=(0, 1 << 40), stride=(1 << 40, 1))
    return torch_zip(folder / "m.pt", tensors((plain("w"), tensor()), (plain("e"), none)))

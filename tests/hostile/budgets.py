"""Files that are large, or look large, or are much work: more of everything than a checkpoint has."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorStorageMetadata

from tests.hostile.arrays import described, npy
from tests.hostile.assemble import (
    FLOATS,
    beside,
    called,
    floats,
    legacy_weights,
    mapping,
    named,
    plain,
    safe,
    storage,
    tensor,
    tensors,
    torch_legacy,
    torch_zip,
)
from tests.hostile.catalogue import add, read, refused
from tests.hostile.zipper import Member, archive, end, sparse

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

TB = 1 << 40
MANY = 150_000  # more tensors than are read
W = (plain("w"), tensor())
TOO_MANY = r"more than the [\d,]+( characters)? that are read"
HOLES = "bytes of holes"


def grown(path: Path, size: int = TB) -> Path:
    """The file, followed by a hole."""
    os.truncate(path, size)
    return path


# --- operations ------------------------------------------------------------------------------------------------

# opcodes, over and over, 15 MB of them -> what the refusal names
OPERATIONS: dict[str, tuple[bytes, str]] = {
    "pushed_and_popped": (b"N0", "operations"),
    "memo": (b"K\x01\x94\x30", "operations"),
    "lists": (b"]", "operations|memory"),
    "dicts": (b"}", "operations|memory"),
    "marks": (b"(", "operations|memory"),
    "objects": (b"cmy\nX\n)\x81", "operations|memory|computing"),
    "texts": (b"I1\n0", "operations|computing"),
    "strings": (b"\x8c\x01a", "operations|memory|computing"),
}
for key, (codes, says) in OPERATIONS.items():

    def _operations(folder: Path, codes: bytes = codes) -> Path:
        return torch_zip(folder / "m.pt", b"\x80\x04" + codes * (15_000_000 // len(codes)) + b"N.")

    add(_operations, f"operations_{key}", says=f"no named tensors|Python objects|{says}", slow=True)


@refused("operations", slow=True)
def operations_before_a_terabyte(folder: Path) -> Path:
    """A legacy file: its apparent size gives it no more time."""
    pickled = b"\x80\x02" + b"N0" * 7_500_000 + legacy_weights()[2:]
    return grown(torch_legacy(folder / "m.pt", pickled))


@refused("computing|memory", slow=True)
def names_of_a_megabyte_joined_again_and_again(folder: Path) -> Path:
    """STACK_GLOBAL of memoised names: a megabyte of work for each five bytes."""
    names = plain("m" * 1_000_000) + b"q\x000" + plain("n") + b"q\x010"
    return torch_zip(folder / "m.pt", b"\x80\x04" + names + b"h\x00h\x01\x930" * 1_000_000 + b"N.")


@refused("classes that are read")
def classes_without_number(folder: Path) -> Path:
    """Each opcode names another class."""
    return torch_zip(folder / "m.pt", beside(b"(" + b"".join(b"cm\n%d\n" % i for i in range(20_000)) + b"t"))


@refused(TOO_MANY, slow=True)
def a_million_aliases_of_one_tensor(folder: Path) -> Path:
    """One tensor under a million names, each a few bytes long."""
    names = b"".join(b"\x8c\x06%06dh\x00" % i for i in range(1_000_000))
    return torch_zip(folder / "m.pt", b"\x80\x04" + tensor() + b"q\x000}(" + names + b"u.")


@refused(TOO_MANY)
def two_names_of_thirty_megabytes(folder: Path) -> Path:
    """Names that take longer to say than all weights."""
    names = [(b"X" + struct.pack("<I", 15_000_000) + c * 15_000_000, tensor()) for c in (b"a", b"b")]
    return torch_zip(folder / "m.pt", tensors(*names))


# --- headers ---------------------------------------------------------------------------------------------------


def header_of(count: int) -> bytes:
    """A safetensors header of so many tensors of one number."""
    entries = (
        b'"layer.%d.weight":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}' % (i, 4 * i, 4 * i + 4)
        for i in range(count)
    )
    return b"{" + b",".join(entries) + b"}"


@refused(TOO_MANY, slow=True)
def safetensors_of_300_000_tensors(folder: Path) -> Path:
    """Three times what is read."""
    return safe(folder / "m.safetensors", header_of(300_000), bytes(4 * 300_000))


def _ten_thousand(checkpoint: Checkpoint) -> None:
    assert len(checkpoint.tensors) == 10_000
    assert checkpoint.tensors["layer.9999.weight"].tolist() == [0]


@read(_ten_thousand)
def safetensors_of_10_000_tensors(folder: Path) -> Path:
    """Lawful: as many as the largest models have."""
    return safe(folder / "m.safetensors", header_of(10_000), bytes(40_000))


def _all(checkpoint: Checkpoint) -> None:
    assert len(checkpoint.tensors) == 100_000


@read(_all, slow=True)
def safetensors_of_as_many_tensors_as_are_read(folder: Path) -> Path:
    """Lawful: not one more."""
    return safe(folder / "m.safetensors", header_of(100_000), bytes(400_000))


@refused(TOO_MANY)
def safetensors_header_of_99_megabytes(folder: Path) -> Path:
    """Within the format's own limit; all spaces, and most of them a hole."""
    path = safe(folder / "m.safetensors", b"{", b"", length=99_000_000)
    return grown(path, 8 + 99_000_000)


@refused("memory|computing|wrongly", slow=True)
def safetensors_header_of_lists(folder: Path) -> Path:
    """Forty million bytes that stand for thirteen million lists."""
    return safe(folder / "m.safetensors", b'{"w":[' + b"[]," * 13_000_000 + b"[]]}")


@refused(TOO_MANY)
def exported_list_of_weights_of_41_megabytes(folder: Path) -> Path:
    """The JSON beside the weights of a .pt2."""
    name = "m/data/weights/model_weights_config.json"
    return sparse(folder / "m.pt2", [("m/archive_format", b"pt2"), (name, 41_000_000)])


@refused(TOO_MANY, slow=True)
def exported_weights_without_number(folder: Path) -> Path:
    """A .pt2 in which one file has many names."""
    number = {"as_int": 1}
    meta = {"dtype": 7, "sizes": [number], "strides": [number], "storage_offset": {"as_int": 0}}
    config = {f"w{i}": {"path_name": "weight_0", "tensor_meta": meta} for i in range(MANY)}
    members = [
        Member("m/archive_format", b"pt2"),
        Member("m/data/weights/model_weights_config.json", json.dumps({"config": config}).encode()),
        Member("m/data/weights/weight_0", FLOATS),
    ]
    (folder / "m.pt2").write_bytes(archive(members))
    return folder / "m.pt2"


# --- archives --------------------------------------------------------------------------------------------------


@refused(TOO_MANY)
def members_without_number(folder: Path) -> Path:
    """A directory of empty members that name one another's places."""
    entry = Member("x", b"").central(0)
    (folder / "m.pt").write_bytes(Member("x", b"").local() + entry * MANY + end(MANY, len(entry) * MANY, 31))
    return folder / "m.pt"


@refused(TOO_MANY)
def directory_of_a_terabyte(folder: Path) -> Path:
    """The end record says that the directory is nearly all of the file, which is a hole."""
    path = folder / "m.pt"
    path.write_bytes(Member("x", b"").local())
    with grown(path).open("ab") as stream:
        stream.write(end(1, 0xFFFFFFF0, 31))
    return path


def _hundred_thousand(checkpoint: Checkpoint) -> None:
    assert len(checkpoint.tensors) == 100_000


@read(_hundred_thousand, slow=True)
def npz_of_100_000_arrays(folder: Path) -> Path:
    """Lawful: as many as are read."""
    data = npy(described())
    return sparse(folder / "m.npz", [(f"a{i}.npy", data) for i in range(100_000)])


@read(_hundred_thousand, slow=True)
def torch_zip_of_100_000_storages(folder: Path) -> Path:
    """Lawful: a storage for each tensor."""
    items = b"".join(plain(f"w{i}") + tensor(storage(str(i))) for i in range(100_000))
    pickled = b"\x80\x02}(" + items + b"u."
    return sparse(folder / "m.pt", [("a/data.pkl", pickled), *((f"a/data/{i}", FLOATS) for i in range(100_000))])


# --- shards ----------------------------------------------------------------------------------------------------


def _index(folder: Path, shards: int, each: Callable[[Path], Path]) -> Path:
    names = [f"model-{i}.safetensors" for i in range(shards)]
    for name in names:
        each(folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {f"w{n}": n for n in names}}))
    return folder / "model.safetensors.index.json"


@refused(TOO_MANY)
def shards_without_number(folder: Path) -> Path:
    """An index of more shards than are read; not one of them is there."""
    return _index(folder, 10_001, lambda path: path)


@refused(TOO_MANY, slow=True)
def shards_that_hold_more_than_their_index_names(folder: Path) -> Path:
    """A thousand shards, all one file of a thousand tensors."""
    first = safe(folder / "all", header_of(1_000), bytes(4_000))
    return _index(folder, 1_000, lambda path: path.hardlink_to(first) or path)


# --- pieces ----------------------------------------------------------------------------------------------------


def _pieces(folder: Path, count: int) -> Path:
    """One tensor of ``count`` pieces, which are all the same bytes of the same file."""
    there = folder / "model"
    dcp.save({"w": torch.arange(1.0)}, checkpoint_id=there, no_dist=True)
    metadata: Metadata = pickle.loads((there / ".metadata").read_bytes())
    entry = metadata.state_dict_metadata["w"]
    assert isinstance(entry, TensorStorageMetadata)
    entry.size = torch.Size([count])
    entry.chunks = [ChunkStorageMetadata(torch.Size([i]), torch.Size([1])) for i in range(count)]
    ((index, place),) = metadata.storage_data.items()
    metadata.storage_data = {replace(index, offset=torch.Size([i]), index=i): place for i in range(count)}
    (there / ".metadata").write_bytes(pickle.dumps(metadata))
    return there


@refused(f"{TOO_MANY}|operations|computing", slow=True)
def dcp_of_250_000_pieces(folder: Path) -> Path:
    """More pieces than are read."""
    return _pieces(folder, 250_000)


def _joined(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].shape == (50_000,)


@read(_joined, slow=True)
def dcp_of_50_000_pieces(folder: Path) -> Path:
    """Lawful, as far as it goes."""
    return _pieces(folder, 50_000)


# --- holes -----------------------------------------------------------------------------------------------------

NUMBERS = TB // 4


def _views(folder: Path, size: int, count: int, aligned: bool) -> Path:
    """So many views of one sparse storage of floats."""
    view = tensor(storage("0", size // 4), shape=(size // 4,))
    pickled = tensors(*((plain(f"w{i}"), view) for i in range(count)))
    before = len(pickled) + len("a/data.pkl") + len("a/data/0") + 2 * 30
    members = [("a/data.pkl", pickled + bytes((-before + (not aligned)) % 4)), ("a/data/0", size)]
    return sparse(folder / "m.pt", members)


def _sixty(checkpoint: Checkpoint) -> None:
    assert len(checkpoint.tensors) == 60
    assert {t.shape for t in checkpoint.tensors.values()} == {(475_000_000,)}
    assert len({t.untyped_storage().data_ptr() for t in checkpoint.tensors.values()}) == 1


@read(_sixty, slow=True)
def sixty_views_of_a_sparse_storage(folder: Path) -> Path:
    """1.9 GB of zeros, shown sixty times: mapped once."""
    return _views(folder, 1_900_000_000, 60, aligned=True)


@refused("would have to be copied")
def sixty_views_of_a_sparse_storage_at_an_odd_place(folder: Path) -> Path:
    """The same where no view can be had without a copy."""
    return _views(folder, 1_900_000_000, 60, aligned=False)


@refused("would have to be copied")
def booleans_of_a_sparse_storage(folder: Path) -> Path:
    """Booleans are copied, as their bytes may be neither 0 nor 1."""
    view = tensor(storage("0", 1_900_000_000, "BoolStorage"), shape=(1_900_000_000,))
    return sparse(folder / "m.pt", [("a/data.pkl", tensors((plain("w"), view))), ("a/data/0", 1_900_000_000)])


@refused(HOLES)
def hole_in_a_torch_zip(folder: Path) -> Path:
    """A terabyte of zeros with its right checksum."""
    return _views(folder, TB, 1, aligned=True)


@refused(HOLES)
def hole_in_a_torch_zip_without_checksums(folder: Path) -> Path:
    """The same, none of it summed."""
    view = tensor(storage("0", NUMBERS), shape=(NUMBERS,))
    members = [("a/data.pkl", tensors((plain("w"), view))), ("a/data/0", TB)]
    return sparse(folder / "m.pt", members, checksums=False)


@refused(HOLES)
def hole_in_a_legacy_file(folder: Path) -> Path:
    """A terabyte behind five pickles."""
    view = tensor(storage("0", NUMBERS, legacy=True), shape=(NUMBERS,))
    path = torch_legacy(folder / "m.pt", tensors((plain("w"), view)), stored={"0": b""})
    raw = path.read_bytes()[:-8]
    path.write_bytes(raw + struct.pack("<q", NUMBERS))
    return grown(path, len(raw) + 8 + TB)


@refused(HOLES)
def hole_in_a_safetensors_file(folder: Path) -> Path:
    """A terabyte behind the header."""
    path = safe(folder / "m.safetensors", {"w": floats([NUMBERS], 0, TB)}, b"")
    return grown(path, path.stat().st_size + TB)


@refused(HOLES)
def holes_in_shards(folder: Path) -> Path:
    """Ten shards of 1 GB each: it is their sum that counts."""

    def shard(path: Path) -> Path:
        safe(path, {f"w{path.name}": floats([1 << 28], 0, 1 << 30)}, b"")
        return grown(path, path.stat().st_size + (1 << 30))

    return _index(folder, 10, shard)


@refused(HOLES)
def hole_in_an_npz(folder: Path) -> Path:
    """A terabyte in one array."""
    header = npy(described(shape=f"({NUMBERS},)"), b"")
    path = sparse(folder / "m.npz", [("w.npy", TB + len(header))], checksums=False)
    with path.open("r+b") as stream:
        stream.seek(30 + len("w.npy") + 20)
        stream.write(header)
    return path


@refused(HOLES)
def hole_in_an_exported_archive(folder: Path) -> Path:
    """A terabyte in one weight."""
    numbers = {"sizes": [{"as_int": NUMBERS}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}}
    entry = {"path_name": "weight_0", "tensor_meta": {"dtype": 7, **numbers}}
    config = json.dumps({"config": {"w": entry}}).encode()
    members: list[tuple[str, bytes | int]] = [
        ("m/archive_format", b"pt2"),
        ("m/data/weights/model_weights_config.json", config),
        ("m/data/weights/weight_0", TB),
    ]
    return sparse(folder / "m.pt2", members)


@refused(HOLES)
def hole_in_a_piece(folder: Path) -> Path:
    """A terabyte in the only piece of a distributed checkpoint."""
    there = _pieces(folder, 1)
    metadata: Metadata = pickle.loads((there / ".metadata").read_bytes())
    view = tensor(storage("0", NUMBERS), shape=(NUMBERS,))
    path = sparse(there / "__0_0.distcp", [("a/data.pkl", b"\x80\x02" + view + b"."), ("a/data/0", TB)])
    entry = metadata.state_dict_metadata["w"]
    assert isinstance(entry, TensorStorageMetadata)
    entry.size = torch.Size([NUMBERS])
    entry.chunks = [ChunkStorageMetadata(torch.Size([0]), torch.Size([NUMBERS]))]
    size = path.stat().st_size
    metadata.storage_data = {k: replace(v, offset=0, length=size) for k, v in metadata.storage_data.items()}
    (there / ".metadata").write_bytes(pickle.dumps(metadata))
    return there


@refused("memory|breaks off")
def pickled_bytes_that_are_a_hole(folder: Path) -> Path:
    """BINBYTES8 of a terabyte, all of it there."""
    path = folder / "m.pt"
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", TB - 100))
    return grown(path)


@refused("pickled Python objects")
def objects_before_a_terabyte(folder: Path) -> Path:
    """What only unpickling could read; its digest is never taken."""
    pickled = b"\x80\x02" + mapping((plain("w"), called(named("my", "Net"), plain(1)))) + b"."
    return grown(torch_legacy(folder / "m.pt", pickled, stored={}))

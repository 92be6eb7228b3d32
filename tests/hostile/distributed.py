"""torch.distributed.checkpoint directories: a pickle says which bytes of which file are which part of a tensor."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorStorageMetadata

from tests.hostile.assemble import FLOATS, called, dotted, named, plain, torch_zip
from tests.hostile.catalogue import add, canary, read, refused, touch

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

FILL = "do not fill it"


def _saved(folder: Path) -> Path:
    there = folder / "model"
    dcp.save({"w": torch.arange(4.0), "half": torch.arange(2.0)}, checkpoint_id=there, no_dist=True)
    return there


@read()
def dcp_sound(folder: Path) -> Path:
    """Lawful: what the directories below differ from."""
    return _saved(folder)


def _changed(change: Callable[[Metadata], None]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        there = _saved(folder)
        metadata = pickle.loads((there / ".metadata").read_bytes())
        change(metadata)
        (there / ".metadata").write_bytes(pickle.dumps(metadata))
        return there

    return make


def _stored(**changes: Any) -> Callable[[Metadata], None]:
    def change(metadata: Metadata) -> None:
        metadata.storage_data = {k: replace(v, **changes) for k, v in metadata.storage_data.items()}

    return change


def _chunks(*chunks: tuple[int, int], size: int = 4) -> Callable[[Metadata], None]:
    """The size of "w", and offsets and sizes of its chunks: those of two elements are 0, 1, all others 0, 1, 2, 3."""

    def change(metadata: Metadata) -> None:
        entry = metadata.state_dict_metadata["w"]
        assert isinstance(entry, TensorStorageMetadata)
        entry.size = torch.Size([size])
        entry.chunks = [ChunkStorageMetadata(torch.Size([at]), torch.Size([length])) for at, length in chunks]
        stored = {index.fqn: (index, place) for index, place in metadata.storage_data.items()}
        index, whole = stored["w"]
        for i, (at, length) in enumerate(chunks):
            place = stored["half"][1] if length == 2 else whole
            metadata.storage_data[replace(index, offset=torch.Size([at]), index=i)] = place

    return change


def _none_stored(metadata: Metadata) -> None:
    metadata.storage_data = {}


def _more_dimensions(metadata: Metadata) -> None:
    entry = metadata.state_dict_metadata["w"]
    assert isinstance(entry, TensorStorageMetadata)
    entry.size = torch.Size([2, 2])


def _transformed(metadata: Metadata) -> None:
    metadata.storage_data = {k: replace(v, transform_descriptors=("zstd",)) for k, v in metadata.storage_data.items()}


CHANGES: dict[str, tuple[Callable[[Metadata], None], str | None]] = {
    "path_above": (_stored(relative_path="../x"), "outside its directory"),
    "path_absolute": (_stored(relative_path="/etc/passwd"), "outside its directory"),
    "path_missing": (_stored(relative_path="__9_9.distcp"), "not there|does not exist"),
    "path_the_metadata": (_stored(relative_path=".metadata"), "breaks off|not a zip"),
    "path_with_an_escape": (_stored(relative_path="\x1b[31m\n::error::x"), "outside its directory"),
    "path_a_number": (_stored(relative_path=3), "does not describe"),
    "offset_past_the_file": (_stored(offset=1 << 40), "breaks off"),
    "offset_negative": (_stored(offset=-1), "non-negative"),
    "length_past_the_file": (_stored(length=1 << 40), "breaks off"),
    "length_negative": (_stored(length=-5), "non-negative"),
    "length_short": (_stored(length=100), "not a zip|breaks off|sound"),
    "chunks_lawful": (_chunks((0, 2), (2, 2)), None),
    "chunk_outside": (_chunks((0, 2), (3, 2)), FILL),
    "chunk_larger": (_chunks((0, 400)), "not what .metadata says"),
    "chunk_negative": (_chunks((-2, 4)), "non-negative"),
    "chunks_overlap": (_chunks((0, 4), (2, 2)), FILL),
    "chunks_overlap_and_leave_a_hole": (_chunks((0, 2), (1, 2)), FILL),
    "chunks_twice": (_chunks((0, 2), (0, 2)), FILL),
    "chunks_missing": (_chunks((0, 2)), FILL),
    "chunks_none": (_chunks(), FILL),
    "chunk_smaller_than_its_bytes": (_chunks((0, 3), (3, 1)), "not what .metadata says"),
    "size_huge": (_chunks((0, 4), size=1 << 50), FILL),
    "nothing_stored": (_none_stored, "not there"),
    "dimensions_disagree": (_more_dimensions, FILL),
    "transformed": (_transformed, "transformed"),
}


def _halves(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].tolist() == [0, 1, 0, 1]


for key, (changed, says) in CHANGES.items():
    add(_changed(changed), f"dcp_{key}", says=says, check=_halves if says is None else None)


@refused(r"posix\.system")
def dcp_metadata_acts(folder: Path) -> Path:
    """The metadata's pickle acts."""
    there = _saved(folder)
    (there / ".metadata").write_bytes(b"\x80\x02" + called(named("posix", "system"), plain(touch(folder))) + b".")
    return there


def _spliced(folder: Path, opcodes: bytes) -> Path:
    """A sound .metadata with opcodes in the place of its storage_meta, which no reader of weights needs."""
    there = _saved(folder)
    metadata = pickle.loads((there / ".metadata").read_bytes())
    metadata.storage_meta = "in their place"
    raw = pickle.dumps(metadata, 2)
    assert raw.count(plain("in their place")) == 1
    (there / ".metadata").write_bytes(b"\x80\x04" + raw[2:].replace(plain("in their place"), opcodes))
    return there


@refused(r"posix\.system")
def dcp_metadata_acts_beside(folder: Path) -> Path:
    """A sound .metadata, in which a field that is not needed acts."""
    return _spliced(folder, called(named("posix", "system"), plain(touch(folder))))


@refused(r"filesystem\.os\.system")
def dcp_metadata_acts_through_torch(folder: Path) -> Path:
    """The same through a module of torch.distributed.checkpoint, by a dotted name."""
    return _spliced(
        folder, called(dotted("torch.distributed.checkpoint.filesystem", "os.system"), plain(touch(folder)))
    )


@refused(r"pathlib\.Path\.touch")
def dcp_metadata_acts_through_pathlib(folder: Path) -> Path:
    """The same through pathlib, whose classes every .metadata names."""
    path = called(named("pathlib", "PosixPath"), plain(str(canary(folder))))
    return _spliced(folder, called(dotted("pathlib", "Path.touch"), path))


@refused("breaks off")
def dcp_metadata_cut(folder: Path) -> Path:
    """The metadata breaks off."""
    there = _saved(folder)
    (there / ".metadata").write_bytes((there / ".metadata").read_bytes()[:200])
    return there


@refused("does not describe")
def dcp_metadata_of_something_else(folder: Path) -> Path:
    """The metadata is a pickled list."""
    there = _saved(folder)
    (there / ".metadata").write_bytes(pickle.dumps([1, 2, 3]))
    return there


@refused("without weights|no weights")
def dcp_metadata_missing(folder: Path) -> Path:
    """Shards without what says where things are."""
    there = _saved(folder)
    (there / ".metadata").unlink()
    return there


@refused(r"names posix\.system in its pickle")
def dcp_shard_acts(folder: Path) -> Path:
    """The bytes that the metadata points to are a torch file whose pickle acts."""
    there = _saved(folder)
    acting = b"\x80\x02" + called(named("posix", "system"), plain(touch(folder))) + b"."
    torch_zip(there / "__0_0.distcp", acting)
    size = (there / "__0_0.distcp").stat().st_size
    metadata = pickle.loads((there / ".metadata").read_bytes())
    metadata.storage_data = {k: replace(v, offset=0, length=size) for k, v in metadata.storage_data.items()}
    (there / ".metadata").write_bytes(pickle.dumps(metadata))
    return there


@refused("device")
def dcp_shard_a_link_to_zeros(folder: Path) -> Path:
    """The shard is an endless device."""
    there = _saved(folder)
    (there / "__0_0.distcp").unlink()
    (there / "__0_0.distcp").symlink_to("/dev/zero")
    return there


@refused("checksum|CRC")
def dcp_flipped_bit(folder: Path) -> Path:
    """One bit of a weight in a shard differs."""
    there = _saved(folder)
    raw = bytearray((there / "__0_0.distcp").read_bytes())
    raw[bytes(raw).index(FLOATS) + 9] ^= 0x10
    (there / "__0_0.distcp").write_bytes(raw)
    return there

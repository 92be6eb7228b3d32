"""Checkpoints as large as asked that take no room on disk: sound headers, and holes (zeros) where the numbers lie."""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

WIDTH = 4096  # of a square weight in bfloat16: 33.6 MB
_LOCAL_CRC, _CENTRAL_CRC = 14, 16  # where a member's headers hold its CRC-32: APPNOTE.TXT 4.3.7 and 4.3.12
_DESCRIPTOR = 0x8  # the flag of a member whose checksum stands behind it
_ZEROS = bytes(1 << 20)


def names(count: int, width: int = WIDTH) -> dict[str, tuple[int, int]]:
    """Names and shapes of so many weights."""
    return {f"layers.{i}.weight": (width, width) for i in range(count)}


def safetensors_file(path: Path, shapes: Mapping[str, Sequence[int]], dtype: str = "BF16", item: int = 2) -> int:
    """A safetensors file of zeros; the bytes of its tensors."""
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * item
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + at)
    return at


def sharded(folder: Path, count: int, shards: int = 4, width: int = WIDTH) -> int:
    """So many weights as transformers would save them: shards and their index. The bytes of all tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes, total, where = names(count, width), 0, {}
    for i in range(shards):
        part = dict(list(shapes.items())[i::shards])
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        total += safetensors_file(folder / file, part)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def torch_zip(path: Path, count: int, width: int = WIDTH) -> None:
    """So many weights as torch.save writes them, with the checksums of what is there."""
    with FakeTensorMode():
        weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in names(count, width).items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(weights, path)
    with zipfile.ZipFile(path) as archive:
        members, directory = archive.infolist(), archive.start_dir
    known: dict[int, bytes] = {}
    with path.open("r+b") as stream:
        stream.seek(directory)
        central = stream.read()
        at = 0
        for member in members:
            length = 46 + sum(struct.unpack_from("<3H", central, at + 28))
            if not member.CRC and member.file_size:  # its bytes were left out, and so was its checksum
                if member.file_size not in known:
                    known[member.file_size] = struct.pack("<L", _checksum(member.file_size))
                stream.seek(member.header_offset + 26)
                data = member.header_offset + 30 + sum(struct.unpack("<2H", stream.read(4)))
                places = [member.header_offset + _LOCAL_CRC, directory + at + _CENTRAL_CRC]
                if member.flag_bits & _DESCRIPTOR:
                    places[0] = data + member.file_size + 4  # behind its mark
                for place in places:
                    stream.seek(place)
                    stream.write(known[member.file_size])
            at += length


def _checksum(zeros: int) -> int:
    crc = 0
    for start in range(0, zeros, len(_ZEROS)):
        crc = zlib.crc32(_ZEROS[: zeros - start], crc)
    return crc

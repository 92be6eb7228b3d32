"""Files that two readers take for different weights: what is read here has to be what torch would load."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.hostile.assemble import (
    FLOATS,
    called,
    good_members,
    legacy_weights,
    mapping,
    named,
    persistent,
    plain,
    storage,
    tensor,
    tensors,
    torch_legacy,
    torch_zip,
    tuple_of,
)
from tests.hostile.catalogue import read, refused
from tests.hostile.zipper import Member, archive, end, zip64_end

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint


@refused("conjugated")
def conjugated(folder: Path) -> Path:
    """Lawful, and not what lies there: torch stores the numbers, and beside them that their conjugates are meant."""
    torch.save({"w": torch.tensor([1 + 2j, 3 - 4j]).conj()}, folder / "m.pt")
    return folder / "m.pt"


@refused("negated")
def negated(folder: Path) -> Path:
    """Lawful, and not what lies there: the imaginary part of a conjugate is a view with its sign turned."""
    torch.save({"w": torch.tensor([1 + 2j, 3 - 4j]).conj().imag}, folder / "m.pt")
    return folder / "m.pt"


@refused("state|tensor|built")
def state_set_on_a_tensor(folder: Path) -> Path:
    """A tensor of 0, 1, 2, 3 that BUILD then points to another storage: torch loads 9, 9, 9, 9."""
    state = tuple_of(storage("1"), plain(0), plain((4,)), plain((1,)))
    pickled = tensors((plain("w"), tensor() + state + b"b"))
    return torch_zip(folder / "m.pt", pickled, {"0": FLOATS, "1": struct.pack("<4f", 9, 9, 9, 9)})


@refused("storage|dtype|twice")
def one_storage_of_two_dtypes(folder: Path) -> Path:
    """Storage 0 is named as of integers first and of floats then: torch goes by the first."""
    items = (plain("a"), tensor(storage(kind="IntStorage"))), (plain("w"), tensor())
    return torch_zip(folder / "m.pt", tensors(*items))


@refused("storage|claims|twice|dtype")
def one_storage_of_two_lengths(folder: Path) -> Path:
    """Storage 0 is named as of one number first and of four then: torch reads one and refuses the rest."""
    items = (plain("a"), tensor(storage(numel=1), shape=(1,))), (plain("w"), tensor())
    return torch_zip(folder / "m.pt", tensors(*items))


@read()
def key_set_twice(folder: Path) -> Path:
    """A dict that is given one key twice: the later value counts."""
    early = tensor(offset=1, shape=(2,))
    return torch_zip(folder / "m.pt", tensors((plain("w"), early), (plain("w"), tensor())))


def _pairs(checkpoint: Checkpoint) -> None:
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.tensors["w"].tolist() == [0, 1, 2, 3]


@read(_pairs)
def ordered_dict_of_pairs(folder: Path) -> Path:
    """Lawful: OrderedDict called with a list of pairs, as Python 2 pickled it."""
    pairs = b"](" + b"](" + plain("w") + tensor() + b"ee"
    return torch_zip(folder / "m.pt", b"\x80\x02" + called(named("collections", "OrderedDict"), pairs) + b".")


@read(_pairs)
def attributes_of_an_ordered_dict(folder: Path) -> Path:
    """Lawful: a state dict's _metadata is set on the dict by BUILD, and is no entry."""
    weights = called(named("collections", "OrderedDict")) + plain("w") + tensor() + b"s"
    pickled = b"\x80\x02" + weights + mapping((plain("_metadata"), plain({"version": 1}))) + b"b."
    return torch_zip(folder / "m.pt", pickled)


@refused("not a sound zip|neither torch.save")
def zip64_directory_elsewhere(folder: Path) -> Path:
    """The zip64 locator points to one directory, and another stands where Python looks: torch sees nine everywhere."""
    theirs = [Member(f"archive/{n}", d) for n, d in good_members()]
    theirs[2].data = struct.pack("<4f", 9, 9, 9, 9)
    ours = [Member(f"archive/{n}", d) for n, d in good_members()]
    body, directories = b"", []
    for members in (ours, theirs):
        entries = b""
        for member in members:
            entries += member.central(len(body))
            body += member.local()
        directories.append(entries)
    at_theirs = len(body)
    body += directories[1]
    record_at = len(body)
    body += zip64_end(4, len(directories[1]), at_theirs, 0)[:56]
    at_ours = len(body)
    body += directories[0]
    ending = zip64_end(4, len(directories[0]), at_ours, record_at)
    (folder / "m.pt").write_bytes(body + ending)
    return folder / "m.pt"


@refused("count|members|storage|neither torch.save")
def count_hides_a_member(folder: Path) -> Path:
    """The end record counts one entry less than the directory has: torch misses the last, which holds the weights."""
    members = [Member(f"archive/{n}", d) for n, d in good_members()]
    members = [members[0], members[1], members[3], members[2]]
    (folder / "m.pt").write_bytes(archive(members, count=3))
    return folder / "m.pt"


@refused("not a sound zip|something")
def directory_size_short(folder: Path) -> Path:
    """The end record gives the directory too few bytes: a whole entry is left over in front of the rest."""
    members = [Member(f"archive/{n}", d) for n, d in good_members()]
    body, directory = b"", b""
    for member in members:
        directory += member.central(len(body))
        body += member.local()
    first = len(members[0].central(0))
    ending = end(3, len(directory) - first, len(body) + first)
    (folder / "m.pt").write_bytes(body + directory + ending)
    return folder / "m.pt"


@read()
def legacy_from_a_big_endian_machine(folder: Path) -> Path:
    """Lawful: a legacy file says what machine wrote it, and its numbers are little-endian all the same."""
    system = pickle.dumps({"protocol_version": 1001, "little_endian": False, "type_sizes": {}}, 2)
    return torch_legacy(folder / "m.pt", legacy_weights(), system=system)


@read()
def legacy_view_of_a_storage(folder: Path) -> Path:
    """Lawful: before 0.4, a storage could be a view of another one, from an offset on."""
    view = tuple_of(plain("0v"), plain(2), plain(4))
    pid = persistent(plain("storage"), named("torch", "FloatStorage"), plain("0"), plain("cpu"), plain(6), view)
    data = struct.pack("<2f", 9, 9) + FLOATS
    return torch_legacy(folder / "m.pt", tensors((plain("w"), tensor(pid))), stored={"0": data})


@refused("storage|dtype|twice")
def legacy_storage_of_two_dtypes(folder: Path) -> Path:
    """The same in a legacy file: torch goes by the dtype that is named first."""
    items = (plain("a"), tensor(storage(kind="IntStorage", legacy=True))), (plain("w"), tensor(storage(legacy=True)))
    return torch_legacy(folder / "m.pt", tensors(*items))


@read()
def legacy_with_bytes_behind(folder: Path) -> Path:
    """Nobody reads past the last storage of a legacy file."""
    path = torch_legacy(folder / "m.pt", legacy_weights())
    path.write_bytes(path.read_bytes() + b"junk")
    return path
